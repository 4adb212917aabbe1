"""The clocks of one run's hosts while it is collected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from collectors.clock import now_ns
from collectors.clocks.meetings import CollectiveRows
from collectors.clocks.tracker import Clock, ClockTracker, Member
from collectors.store.parquet import read_parquet
from collectors.store.tables import COLLECTIVE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from collectors.clocks.alignment import ClockEstimate
    from collectors.store.catalogue import SealedRun
    from collectors.store.hot import HotFile
    from collectors.store.seal import Process

    Estimates = dict[tuple[str, str], ClockEstimate | None]

_EVERY_NS = 5 * 10**9
_LEISURE = 20  # times what an estimate takes: with a thousand hosts it is seconds
_MOST_FILES = 20  # of what was sealed before this process began


class RunClocks:
    """Follows the clocks of a run's hosts; where all is on one host there is nothing to do.

    Attributes:
        estimates: by host and boot, against the lowest rank's; None where nothing connects them.
    """

    def __init__(self, parquet: Path, sealed: SealedRun) -> None:
        self._parquet = parquet
        self._sealed = sealed
        self._tracker: ClockTracker | None = None
        self._unread: list[HotFile] = []
        self._fresh = False
        self._estimated_ns = self._took_ns = 0
        self.estimates: Estimates = dict(sealed.clocks)

    @property
    def due(self) -> bool:
        """Whether there are rows that the estimates do not know of."""
        return bool(self._unread) or self._fresh

    def note(self, files: Iterable[HotFile]) -> None:
        """Remember hot files, to be read when there is time."""
        self._unread += [file for file in files if file.table == COLLECTIVE.name]

    def update(self, processes: Mapping[int, Process], wall_ns: int, *, ended: bool) -> bool:
        """Estimate again, at most every 5 s; whether anything has changed.

        Args:
            processes: whoever has recorded in the run so far.
            ended: no more rows will come.
        """
        self._add(processes)
        recent = 0 <= wall_ns - self._estimated_ns < max(_EVERY_NS, _LEISURE * self._took_ns)
        if self._tracker is None or not self._fresh or (recent and not ended):
            return False
        if ended:
            self._tracker.flush()
        begun_ns = now_ns()
        found = self._tracker.estimates()
        self._fresh, self._estimated_ns = False, wall_ns
        self._took_ns = now_ns() - begun_ns
        before, self.estimates = (
            self.estimates,
            {(clock.host, clock.boot_id): estimate for clock, estimate in found.items()},
        )
        return before != self.estimates

    def _add(self, processes: Mapping[int, Process]) -> None:
        files, self._unread = self._unread, []
        members = {
            number: Member(rank=one.rank, clock=Clock(host=one.host, boot_id=one.boot_id))
            for number, one in processes.items()
            if one.rank is not None
        }
        if not files or len({member.clock for member in members.values()}) < 2:
            return
        parts = [] if self._tracker else list(self._sealed_rows())
        self._tracker = self._tracker or ClockTracker()
        parts += [file.read() for file in files if file.path.exists()]
        if parts:
            self._tracker.add(CollectiveRows.of_table(pa.concat_tables(parts)), members)
            self._fresh = True

    def _sealed_rows(self) -> Iterable[pa.Table]:
        seals = [self._sealed.seals[seal_id] for seal_id in sorted(self._sealed.seals)]
        files = [f for seal in seals for f in seal.files if f.table == COLLECTIVE.name]
        for file in files[-_MOST_FILES:]:
            yield from read_parquet(self._parquet, file, self._sealed.run_id)
