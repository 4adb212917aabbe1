"""What a rank has come to and not got through, above all by its flight recorder."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from playbooks.hang.verdict import Meeting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collectors.samplers.last_collectives import FlightEntry

_PAIR = re.compile(r"(?:send|recv) \d+(?:->|<-)(\d+)")


@dataclass(frozen=True, kw_only=True)
class Wait:
    """A rank in a collective.

    Attributes:
        members: of its group; None: not known.
        unusual: whether it did something else at this place of its steps before.
        told: who says so: "board", "flight" or "stack".
        partner: the other rank, where one sends and one receives.
        stuck: its device does not complete it, while that of another member has.
    """

    rank: int
    meeting: Meeting
    members: frozenset[int] | None
    told: str
    unusual: bool = False
    partner: int | None = None
    stuck: bool = False


Waits = dict[int, list[Wait]]


def waits_of_flights(flights: Sequence[FlightEntry]) -> Waits:
    """What each rank has enqueued and its device not completed."""
    by_group: dict[str, list[FlightEntry]] = defaultdict(list)
    for entry in flights:
        by_group[entry.group].append(entry)
    waits: Waits = defaultdict(list)
    for entries in by_group.values():
        # Sends and receives are numbered by each rank for itself.
        in_pairs = any(_PAIR.match(entry.operation) for entry in entries)
        ahead = -1 if in_pairs else max(entry.completed for entry in entries)
        for entry in entries:
            if entry.sequence > entry.completed:
                waits[entry.rank].append(_wait(entry, stuck=ahead > entry.completed))
    return dict(waits)


def _wait(entry: FlightEntry, *, stuck: bool) -> Wait:
    first = entry.completed + 1
    told = entry.sequence == first
    return Wait(
        rank=entry.rank,
        meeting=Meeting(
            name=entry.operation or "a collective",
            group=entry.group,
            sequence=first,
            where=entry.where if told else "",
            given=given_to(entry) if told else (),
        ),
        members=frozenset(entry.ranks) or None,
        told="flight",
        partner=_partner(entry),
        stuck=stuck,
    )


def given_to(entry: FlightEntry) -> tuple[tuple[str, str], ...]:
    """What the last collective was called with."""
    told = (("sizes", entry.sizes), ("type", entry.dtype))
    return tuple((name, value) for name, value in told if value)


def _partner(entry: FlightEntry) -> int | None:
    """The rank that is sent to, or received from; names count the members of the group."""
    found = _PAIR.match(entry.operation)
    number = int(found[1]) if found else len(entry.ranks)
    return entry.ranks[number] if number < len(entry.ranks) else None
