"""Who waits for whom: ranks in collectives, for the members that have not come to them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from collectors.membership import members_of
from playbooks.hang.enqueued import Wait, Waits, given_to, waits_of_flights
from playbooks.hang.place import Doing
from playbooks.hang.verdict import Meeting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from collectors.samplers.last_collectives import FlightEntry
    from playbooks.hang.observation import Observation
    from playbooks.hang.place import Place

_NOBODY: Mapping[int, str] = {}


def waits_of(
    observations: Iterable[Observation],
    places: Mapping[int, Place],
    flights: Sequence[FlightEntry] = (),
    roots: Mapping[int, str] = _NOBODY,
) -> Waits:
    """What each rank waits in; no entry: in nothing. Ranks that cannot go on wait for nobody.

    Where boards show collectives they are asked before flight recorders (which see what C++ code
    issues too), and these before stacks. With what collectives were called all of them tell.

    Args:
        roots: that ranks named in the collectives they are in, such as "src 0".
    """
    able = [each for each in observations if each.here and not each.stopped]
    waits: Waits = {}
    for each in able:
        if wait := _of_board(each):
            waits[each.rank] = [wait]
    if not waits:
        ranks = {each.rank for each in able}
        waits = {rank: found for rank, found in waits_of_flights(flights).items() if rank in ranks}
    for each in able:
        place = places.get(each.rank)
        if each.rank not in waits and place is not None and place.doing is Doing.COLLECTIVE:
            waits[each.rank] = [_of_stack(each.rank, place)]
    return {rank: _with_given(found, waits, flights, roots) for rank, found in waits.items()}


def _of_board(each: Observation) -> Wait | None:
    entered = None if each.board is None else each.board.collective
    if entered is None:
        return None
    members = members_of(entered.group)
    return Wait(
        rank=each.rank,
        meeting=Meeting(
            name=entered.name,
            group=entered.group,
            sequence=entered.sequence,
            size_bytes=entered.size_bytes or None,
            where=entered.where,
        ),
        members=None if members is None else frozenset(members),
        told="board",
        unusual=entered.unusual,
    )


def _of_stack(rank: int, place: Place) -> Wait:
    return Wait(
        rank=rank,
        meeting=Meeting(name=place.collective or "a collective", where=place.line),
        members=None,
        told="stack",
    )


def _with_given(
    found: list[Wait], waits: Waits, flights: Sequence[FlightEntry], roots: Mapping[int, str]
) -> list[Wait]:
    """The same with what more is known of the arguments of a rank's only collective."""
    if len(found) != 1:
        return found
    [wait] = found
    given = wait.meeting.given
    if wait.told == "board":
        entries = _of_same_call(wait, waits, flights)
        given = next((given_to(each) for each in entries if each.rank == wait.rank), ())
    if root := roots.get(wait.rank):
        given = (*given, ("root", root))
    return [replace(wait, meeting=replace(wait.meeting, given=given))]


def _of_same_call(
    wait: Wait, waits: Waits, flights: Sequence[FlightEntry]
) -> Sequence[FlightEntry]:
    """What flight recorders know of a collective on the board, where it is the last everywhere."""
    found = [
        entry
        for entry in flights
        if entry.rank in waits
        and frozenset(entry.ranks) == wait.members
        and entry.sequence == entry.completed + 1
    ]
    return found if len({(each.sequence, each.operation) for each in found}) == 1 else ()


class WaitGraph:
    """Edges from each rank that waits to those that have not come.

    Args:
        ranks: all that are seen; ``here``: those of them that are alive and have not left.
        enqueued: by rank and group, the last collective its flight recorder saw enqueued.
    """

    def __init__(
        self,
        waits: Waits,
        ranks: Iterable[int],
        enqueued: Mapping[tuple[int, str], int] | None = None,
    ) -> None:
        self._waits = waits
        self._ranks = set(ranks)
        self._enqueued = enqueued or {}
        self.blockers = {rank: self._blockers_of(rank) for rank in waits}

    def roots(self) -> set[int]:
        """The ranks that others wait for, directly or not, and that wait for nobody themselves."""
        awaited = set().union(*self.blockers.values()) if self.blockers else set()
        return {rank for rank in awaited if not self.blockers.get(rank)}

    def _blockers_of(self, rank: int) -> set[int]:
        found: set[int] = set()
        for wait in self._waits[rank]:
            if wait.stuck:
                continue  # all have come, or somebody could not have completed it
            members = wait.members
            if wait.partner is not None:
                if not self._meets(wait.partner, wait):
                    found.add(wait.partner)
            elif members is None:  # whoever is in nothing may be the one
                found |= {other for other in self._ranks if other not in self._waits}
            else:
                found |= {other for other in members if not self._has_come(other, wait)}
        return found - {rank}

    def _meets(self, partner: int, wait: Wait) -> bool:
        """Whether the one to send to, or to receive from, is at it too."""
        return any(
            other.partner == wait.rank and other.meeting.group == wait.meeting.group
            for other in self._waits.get(partner, ())
        )

    def _has_come(self, rank: int, wait: Wait) -> bool:
        key = wait.meeting.group, wait.meeting.sequence
        if any(
            other.meeting.group == key[0] and other.meeting.sequence >= key[1]
            for other in self._waits.get(rank, ())
        ):
            return True
        return self._enqueued.get((rank, key[0]), -1) >= key[1]
