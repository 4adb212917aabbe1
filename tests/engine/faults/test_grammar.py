"""What a fault may be written like, and what is said of everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.errors import UsageError
from engine.faults.grammar import parse_fault, spelling
from engine.faults.keys import Steps
from engine.faults.registry import FAULTS, OUTSIDE_FAULTS, RANK_FAULTS, check_faults
from engine.faults.signals import SigKill
from engine.faults.slow_rank import SlowRank

NUMBERS = st.integers(1, 10**9 - 1).map(str)
RANGES = st.tuples(st.integers(1, 10**5), st.integers(0, 10**5)).map(lambda t: f"{t[0]}-{sum(t)}")
VALUES = {
    "steps": RANGES,
    "bit": st.integers(0, 31).map(str),
    "percent": st.integers(1, 10_000).map(str),
    "ms": st.integers(1, 600_000).map(str),
    "kbit": st.integers(8, 10**8).map(str),
    "host": st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}|@(0|[1-9][0-9]{0,7})", fullmatch=True),
    "seconds": st.integers(1, 10**6).map(lambda ms: str(ms / 1000)),
}


@st.composite
def written(draw: st.DrawFn) -> str:
    """A fault of any class, its keys in any order, some of the optional ones left out."""
    fault = draw(st.sampled_from(sorted(FAULTS.values(), key=lambda each: each.name)))
    keys = [key for key in fault.all_keys() if key.needed or draw(st.booleans())]
    pairs = [f"{key.name}={draw(VALUES.get(key.name, NUMBERS))}" for key in keys]
    return f"{fault.name}:{','.join(draw(st.permutations(pairs)))}"


@given(text=written())
def test_what_is_written_is_read(text: str) -> None:
    fault = parse_fault(text, FAULTS)
    assert parse_fault(str(fault), FAULTS) == fault
    for pair in text.partition(":")[2].split(","):
        name, _, value = pair.partition("=")
        assert str(getattr(fault, name)) == value
        assert str(fault.attributes[name]) == value
    assert fault.misfit(world_size=10**9, steps=10**9) == ""


def test_what_may_be_left_out_has_its_default() -> None:
    expected = SigKill(rank=1, step=7, delay_ms=0)
    assert parse_fault("sigkill:step=7,rank=1", FAULTS) == expected
    assert spelling(SigKill) == "sigkill:rank=...,step=...[,delay_ms=0]"


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
        ("slow-rank:rank=9999999999,steps=1-2", "is too large"),
        ("sigkill:rank=1,step=0", "step=0 is not between 1"),
        ("parameter-flip:rank=1,step=1,bit=32", "bit=32 is not between 0 and 31"),
        ("network-cut:at_step=1,host=a b,seconds=1", "host=a b is not a name"),
        ("network-cut:at_step=1,host=@-1,seconds=1", "host=-1 is not a whole number"),
        ("network-cut:at_step=1,host=a,seconds=0.0", "seconds=0.0 is not a number of seconds"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault(text, FAULTS)
    assert words in caught.value.what
    fault = FAULTS.get(text.partition(":")[0], SlowRank)
    assert spelling(fault) in caught.value.remedy


@given(
    text=st.one_of(
        st.text(max_size=40),
        st.tuples(st.sampled_from(sorted(FAULTS)), st.text(max_size=20)).map(":".join),
        st.builds(
            "{}:{}={}".format,
            st.sampled_from(sorted(FAULTS)),
            st.sampled_from(["rank", "step", "steps", "host", "seconds", "seed", "delay_ms"]),
            st.text(max_size=20),
        ),
    )
)
def test_nothing_else_ever_escapes(text: str) -> None:
    try:
        fault = parse_fault(text, FAULTS)
    except UsageError:
        return
    assert parse_fault(str(fault), FAULTS) == fault


def test_a_fault_that_cannot_happen_in_the_run_is_told() -> None:
    fault = SlowRank(rank=2, steps=Steps(60, 110))
    assert "ranks 0 to 1" in fault.misfit(world_size=2, steps=150)
    assert "60 never comes" in fault.misfit(world_size=4, steps=50)
    assert fault.misfit(world_size=4, steps=60) == ""


def test_a_launch_takes_what_ranks_strike_and_refuses_the_rest() -> None:
    check_faults(["sigkill:rank=1,step=2", "nan-batch:step=3"], ranks=2, steps=3)
    with pytest.raises(UsageError) as caught:
        check_faults(["driver-kill:at_step=2"], ranks=2, steps=3)
    assert "opsuite drill" in caught.value.remedy
    with pytest.raises(UsageError, match="never comes"):
        check_faults(["nan-batch:step=4"], ranks=2, steps=3)


def test_every_class_is_of_one_kind() -> None:
    assert {**RANK_FAULTS, **OUTSIDE_FAULTS} == FAULTS
    assert all(fault.struck == "rank" for fault in RANK_FAULTS.values())
    assert all(fault.struck == "outside" for fault in OUTSIDE_FAULTS.values())
