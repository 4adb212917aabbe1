"""Who never came, and why: a rank that others wait for as a person would describe it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playbooks.hang.place import Doing
from playbooks.hang.verdict import Cause, Culprit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from playbooks.hang.enqueued import Waits
    from playbooks.hang.observation import Observation
    from playbooks.hang.place import Place

_CAUSES = {
    Doing.LOADER: Cause.LOADER,
    Doing.LOCK: Cause.LOCK,
    Doing.QUEUE: Cause.QUEUE,
    Doing.FULL: Cause.QUEUE,
    Doing.DEVICE: Cause.DEVICE,
}
_ORDER = (
    (Cause.GONE, Cause.STOPPED),
    (Cause.LOADER, Cause.LOCK, Cause.QUEUE, Cause.MISMATCH, Cause.BEFORE_COLLECTIVE),
    (Cause.UNKNOWN, Cause.DEVICE),
    (Cause.ELSEWHERE,),
)
"""From those that surely do not come to those that may."""


def describe(
    ranks: Iterable[int],
    observations: Iterable[Observation],
    places: Mapping[int, Place],
    waits: Waits,
    busy: Mapping[int, bool],
) -> tuple[Culprit, ...]:
    """The culprits among ``ranks``: the surest kind of them, ascending."""
    seen = {each.rank: each for each in observations}
    found = [
        _described(rank, seen.get(rank), places.get(rank), waits, busy) for rank in sorted(ranks)
    ]
    for kind in _ORDER:
        chosen = tuple(culprit for culprit in found if culprit.cause in kind)
        if chosen:
            return chosen
    return tuple(found)


def _described(
    rank: int,
    seen: Observation | None,
    place: Place | None,
    waits: Waits,
    busy: Mapping[int, bool],
) -> Culprit:
    if seen is None:
        return Culprit(rank=rank, host="", pid=None, cause=Cause.ELSEWHERE)
    waiting = waits.get(rank, [])
    stuck = [wait for wait in waiting if wait.stuck]
    at = next(iter([*stuck, *waiting]), None)
    return Culprit(
        rank=rank,
        host=seen.host,
        pid=seen.pid,
        cause=Cause.MISMATCH if waiting and not stuck else _cause(seen, place, waits),
        place=place if seen.here else None,
        meeting=at.meeting if at else None,
        busy=busy.get(rank),
        last_words="" if seen.board is None else seen.board.last_words,
    )


def _cause(seen: Observation, place: Place | None, waits: Waits) -> Cause:
    if not seen.here:
        return Cause.GONE
    if seen.stopped:
        return Cause.STOPPED
    if waits.get(seen.rank):
        return Cause.DEVICE
    if place is None:
        return Cause.UNKNOWN
    return _CAUSES.get(place.doing, Cause.BEFORE_COLLECTIVE)
