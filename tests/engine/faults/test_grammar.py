"""What a fault may be written like, and what is said of everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.errors import UsageError
from engine.faults.grammar import parse_fault
from engine.faults.registry import FAULTS
from engine.faults.slow_rank import SlowRank


@given(rank=st.integers(0, 10_000), first=st.integers(1, 10_000), length=st.integers(0, 10_000))
def test_what_is_written_is_read(rank: int, first: int, length: int) -> None:
    expected = SlowRank(rank=rank, first_step=first, last_step=first + length)
    steps = f"steps={first}-{first + length}"
    assert parse_fault(f"slow-rank:rank={rank},{steps}", FAULTS) == expected
    assert parse_fault(f"slow-rank:{steps},rank={rank}", FAULTS) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "unknown fault ''"),
        ("slow-rang:rank=1", "unknown fault 'slow-rang'"),
        ("slow-rank", "needs rank, steps"),
        ("slow-rank:rank=1", "needs steps"),
        ("slow-rank:rank=1,step=1-2", "no key 'step'"),
        ("slow-rank:rank=1,rank=2,steps=1-2", "rank is given twice"),
        ("slow-rank:rank=,steps=1-2", "rank has no value"),
        ("slow-rank:rank=one,steps=1-2", "rank=one is not a whole number"),
        ("slow-rank:rank=-1,steps=1-2", "rank=-1 is not a whole number"),
        ("slow-rank:rank=1,steps=7", "steps=7 is not a range"),
        ("slow-rank:rank=1,steps=9-7", "steps=9-7 is not a range"),
        ("slow-rank:rank=1,steps=0-7", "steps=0-7 is not a range"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault(text, FAULTS)
    assert words in caught.value.what
    assert "slow-rank:rank=...,steps=..." in caught.value.remedy


@given(text=st.text(max_size=40))
def test_nothing_else_ever_escapes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_fault(text, FAULTS)


def test_a_fault_that_cannot_happen_in_the_run_is_told() -> None:
    fault = SlowRank(rank=2, first_step=60, last_step=110)
    assert "ranks 0 to 1" in fault.misfit(world_size=2, steps=150)
    assert "60 never comes" in fault.misfit(world_size=4, steps=50)
    assert fault.misfit(world_size=4, steps=60) == ""
