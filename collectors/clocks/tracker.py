"""The clocks of a run's hosts, from the collectives that they have in common.

A :class:`ClockTracker` takes rows as they come and keeps a few thousand per pair of hosts, so it
is cheap to ask at every seal. Times are each host's wall clock, int64 nanoseconds.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from collectors.clocks.alignment import ClockEstimate, Constraints, Offset, align, thin
from collectors.clocks.meetings import Meetings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from collectors.clocks.meetings import CollectiveRows

_ROWS_A_MATCHING = 100_000  # matching each small batch by itself would cost more
_ITSELF = Offset(offset_ns=0, drift=0.0, at_ns=0, error_ns=0)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A host's clock: it begins anew with each boot."""

    host: str
    boot_id: str


@dataclass(frozen=True, kw_only=True)
class Member:
    """A process of the run that may take part in collectives."""

    rank: int
    clock: Clock


class ClockTracker:
    """Follows the clocks of the hosts of one run."""

    def __init__(self) -> None:
        self._meetings = Meetings()
        self._known: dict[tuple[int, int], Constraints] = {}
        self._offsets: dict[tuple[int, int], Offset] = {}
        self._clocks: dict[Clock, int] = {}
        self._ranks: dict[int, int] = {}  # the lowest rank of each clock

    def add(self, rows: CollectiveRows, members: Mapping[int, Member]) -> None:
        """Take new rows; those of processes that are no ``members`` are left out.

        Args:
            rows: each row of the run once, in any order.
            members: the run's ranks so far, by number of their process.
        """
        for member in members.values():
            number = self._clocks.setdefault(member.clock, len(self._clocks))
            self._ranks[number] = min(member.rank, self._ranks.get(number, member.rank))
        clocks = {process: self._clocks[member.clock] for process, member in members.items()}
        ranks = {process: member.rank for process, member in members.items()}
        self._meetings.add(rows, clocks, ranks)
        if self._meetings.unmatched > _ROWS_A_MATCHING:
            self._take(self._meetings.match(self._order()))

    def flush(self) -> None:
        """Use collectives of which not all ranks were seen as well: the others will not come."""
        self._take(self._meetings.match(self._order()))
        self._take(self._meetings.flush(self._order()))

    def _order(self) -> NDArray[np.int64]:
        """Each clock's place by its lowest rank; the first is the reference."""
        by_rank = sorted(self._ranks, key=lambda number: self._ranks[number])
        order = np.empty(len(by_rank), dtype=np.int64)
        order[by_rank] = np.arange(len(by_rank))
        return order

    def _take(self, found: Iterable[tuple[tuple[int, int], Constraints]]) -> None:
        for pair, constraints in found:
            before = self._known.get(pair)
            together = constraints if before is None else before.joined(constraints)
            self._known[pair] = thin(together)
            self._offsets.pop(pair, None)

    def estimates(self) -> dict[Clock, ClockEstimate | None]:
        """Each clock against that of the lowest rank; None where nothing connects them."""
        self._take(self._meetings.match(self._order()))
        for pair, constraints in self._known.items():
            if pair not in self._offsets and (offset := align(constraints)) is not None:
                self._offsets[pair] = offset
        if not self._clocks:
            return {}
        reference = min(self._ranks, key=lambda number: self._ranks[number])
        found = _paths(self._offsets, reference)
        return {
            clock: None if (offset := found.get(number)) is None else _estimate(clock, offset)
            for clock, number in self._clocks.items()
        }


def estimate_clocks(
    rows: CollectiveRows, members: Mapping[int, Member]
) -> dict[Clock, ClockEstimate | None]:
    """Every host's clock against that of the lowest rank's; None where nothing connects them."""
    tracker = ClockTracker()
    tracker.add(rows, members)
    tracker.flush()
    return tracker.estimates()


def _estimate(clock: Clock, offset: Offset) -> ClockEstimate:
    return ClockEstimate(
        host=clock.host,
        boot_id=clock.boot_id,
        offset_ns=offset.offset_ns,
        drift=offset.drift,
        at_ns=offset.at_ns,
        error_ns=offset.error_ns,
    )


def _paths(offsets: Mapping[tuple[int, int], Offset], reference: int) -> dict[int, Offset]:
    """Every clock against the reference, over those between with the least error (Dijkstra)."""
    steps: dict[int, list[tuple[int, Offset]]] = {}
    for (nearer, farther), offset in offsets.items():
        steps.setdefault(nearer, []).append((farther, offset))
        steps.setdefault(farther, []).append((nearer, offset.inverse()))
    found: dict[int, Offset] = {}
    queue = [(0, 0, reference, _ITSELF)]
    pushed = 1  # tells equal errors apart: offsets do not compare
    while queue:
        _, _, here, so_far = heapq.heappop(queue)
        if here in found:
            continue
        found[here] = so_far
        for there, step in steps.get(here, []):
            if there not in found:
                whole = step if here == reference else step.after(so_far)
                heapq.heappush(queue, (whole.error_ns, pushed, there, whole))
                pushed += 1
    return found
