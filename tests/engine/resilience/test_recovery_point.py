"""Where a job may go on: from nothing mixed, given up, or newer than what is trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from engine.resilience.coverage import Coverage
from engine.resilience.hosts import Host
from engine.resilience.messages import Copy, Place, Resume
from engine.resilience.recovery_point import (
    Lineage,
    RecoveryPoint,
    newest,
    newest_in_memory,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_HOSTS = ("a", "b", "c")
_RANKS = 3
_PLACES = tuple(Place(host=host, first=rank, count=1) for rank, host in enumerate(_HOSTS))
_copies = st.builds(
    Copy,
    attempt=st.integers(1, 4),
    rank=st.integers(0, _RANKS - 1),
    step=st.integers(1, 12),
)
_held = st.dictionaries(st.sampled_from(_HOSTS), st.lists(_copies, max_size=20).map(tuple))


@st.composite
def _lineages(draw: st.DrawFn) -> Lineage:
    """Attempts as they follow each other: each begins where one before had been."""
    later = draw(st.lists(st.integers(0, 12), max_size=3))
    return Lineage(enumerate([0, *later], start=1))


@given(_held, _lineages(), st.none() | st.integers(0, 12))
def test_a_point_in_memory_is_whole_trusted_and_of_one_attempt(
    held: Mapping[str, tuple[Copy, ...]], lineage: Lineage, at_most: int | None
) -> None:
    point = newest_in_memory(held, _RANKS, lineage, at_most)
    if point is None:
        return
    assert at_most is None or point.step <= at_most
    for rank, holder in enumerate(point.holders):
        copy = Copy(attempt=point.origin, rank=rank, step=point.step)
        assert copy in held[holder]
        assert lineage.holds(copy)


@given(_held, _lineages(), st.none() | st.integers(0, 12))
def test_no_newer_whole_step_is_overlooked(
    held: Mapping[str, tuple[Copy, ...]], lineage: Lineage, at_most: int | None
) -> None:
    kept = {copy for copies in held.values() for copy in copies if lineage.holds(copy)}
    steps = [
        step
        for step in range(1, 13)
        if (at_most is None or step <= at_most)
        and {copy.rank for copy in kept if copy.step == step} == set(range(_RANKS))
    ]
    point = newest_in_memory(held, _RANKS, lineage, at_most)
    assert (point.step if point else None) == (max(steps) if steps else None)


@given(_lineages(), st.integers(1, 12))
def test_of_each_step_the_past_has_one_attempt_at_most(lineage: Lineage, step: int) -> None:
    holding = [a for a in lineage.starts if lineage.holds(Copy(attempt=a, rank=0, step=step))]
    assert len(holding) <= 1


def test_what_lies_beyond_the_beginning_of_a_later_attempt_is_given_up() -> None:
    lineage = Lineage([(1, 0)])
    lineage.begin(2, 20)
    assert lineage.holds(Copy(attempt=1, rank=0, step=20))
    assert not lineage.holds(Copy(attempt=1, rank=0, step=30))
    assert lineage.holds(Copy(attempt=2, rank=0, step=30))
    assert not lineage.holds(Copy(attempt=2, rank=0, step=20)), "it began after that step"
    assert not lineage.holds(Copy(attempt=3, rank=0, step=40)), "nobody knows that attempt"


@given(_held)
def test_what_is_acknowledged_survives_the_loss_of_any_host(
    held: Mapping[str, tuple[Copy, ...]],
) -> None:
    """Each rank's own host has its copy as well, made at once."""
    lineage, home = Lineage([(attempt, 0) for attempt in (1,)]), dict(enumerate(_HOSTS))
    coverage = Coverage(_PLACES, lineage)
    coverage.keep_only(Host(name=host, copies=copies) for host, copies in held.items())
    step = coverage.newest
    own = {
        host: (*held.get(host, ()), Copy(attempt=1, rank=rank, step=step))
        for rank, host in home.items()
    }
    if step == 0:
        return
    for lost in _HOSTS:
        left = {host: copies for host, copies in own.items() if host != lost}
        point = newest_in_memory(left, _RANKS, lineage, None)
        assert point is not None
        assert point.step >= step


@given(st.lists(_held, min_size=1, max_size=6), _lineages())
def test_coverage_follows_what_hosts_hold(
    moments: list[Mapping[str, tuple[Copy, ...]]], lineage: Lineage
) -> None:
    """What is kept up to date is what one gets by looking at everything anew."""
    coverage, home = Coverage(_PLACES, lineage), dict(enumerate(_HOSTS))
    for held in moments:
        coverage.keep_only(Host(name=host, copies=copies) for host, copies in held.items())
        elsewhere: dict[int, set[int]] = {}
        for host, copies in held.items():
            for copy in copies:
                if lineage.holds(copy) and home[copy.rank] != host:
                    elsewhere.setdefault(copy.step, set()).add(copy.rank)
        whole = [step for step, ranks in elsewhere.items() if len(ranks) == _RANKS]
        assert coverage.newest == max(whole, default=0)


def test_memory_is_preferred_to_an_equally_new_disk_and_both_to_nothing() -> None:
    memory = RecoveryPoint(step=10, resume=Resume.MEMORY, holders=("a",), origin=1)
    assert newest(memory, 10) is memory
    assert newest(memory, 11) == RecoveryPoint(step=11, resume=Resume.DISK)
    assert newest(None, 0) == RecoveryPoint(step=0, resume=Resume.NOTHING)
