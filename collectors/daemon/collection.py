"""The collector at work: reads, seals, and says how old what it read was."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from collectors.clock import host_name
from collectors.daemon.chore import Chore
from collectors.daemon.lags import LagHistogram
from collectors.store.collector import Collector
from collectors.store.index import Index

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from collectors.daemon.chore import Warnings
    from collectors.run import RunDirectory
    from collectors.store.snapshot import Snapshot

BUSY_S = 0.2
"""From one reading to the next while records come: half of the lag that is promised."""
LIVE_S = 0.4
IDLE_S = 1.0
_REST_S = 0.05  # between two readings, however long they take: others need the processor too
_SEAL_EVERY_S = 1.0
_MAINTAIN_EVERY_S = 5.0
_ALIGN_EVERY_S = 5.0
_CATCH_UP_S = 20.0


class Collection:
    """Reads every 0.2 s, seals and aligns clocks beside it; failures are told and retried.

    The caller holds the store's lock alone.

    Raises:
        OpsuiteError: the index cannot be opened here.
    """

    def __init__(self, home: Path, warnings: Warnings) -> None:
        self._index = Index(home)
        self._collector = Collector(home, self._index)
        self.lags = LagHistogram()
        self.rows = 0
        self._maintained_s = 0.0
        self._reading = Chore("collecting", self._read, warnings)
        self._sealing = Chore("sealing", self._seal, warnings)
        self._aligning = Chore("aligning clocks", self._align, warnings)

    def start(self) -> None:
        """Begin to read and to seal."""
        self._reading.start()
        self._sealing.start()
        self._aligning.start()

    @property
    def live(self) -> list[RunDirectory]:
        """The runs in which more may happen."""
        return self._collector.live

    @property
    def busy(self) -> bool:
        """Whether a run of this host may go on; what happens on others is not collected here."""
        return any(run.manifest.host == host_name() for run in self._collector.live)

    @property
    def rows_hot(self) -> int:
        """How many rows are read and not sealed."""
        return self._collector.rows_hot

    def snapshot(self, max_age_s: float) -> tuple[Snapshot, bool]:
        """What is known, and whether that is all that was recorded ``max_age_s`` ago.

        It is not where reading fails, or does not catch up within 20 s.
        """
        since = time.monotonic() - max_age_s
        whole = self._reading.ensure(since=since, timeout_s=_CATCH_UP_S)
        return self._collector.snapshot, whole

    def repair(self) -> None:
        """Make again what somebody removed under the collector's hands.

        Raises:
            OSError: the disk refused.
        """
        self._collector.repair()

    def seal_now(self) -> None:
        """Seal all that was recorded before.

        Raises:
            OSError: the disk refused.
        """
        self._reading.ensure(since=time.monotonic(), timeout_s=_CATCH_UP_S)
        self._collector.seal(force=True)

    def thin(self, run_id: str, seal_ids: Sequence[str]) -> int:
        """Let the rows of some seals expire, their sums apart; how many that were."""
        return self._collector.thin(run_id, seal_ids)

    def close(self, *, seal: bool) -> None:
        """End; with ``seal``, read to the end before, and seal all of it.

        Raises:
            OSError, OpsuiteError: the disk refused; the spools keep what is not sealed.
        """
        for chore in (self._reading, self._sealing, self._aligning):
            chore.stop()
        try:
            if seal:
                while self._collector.tick().more:
                    self._collector.seal(force=True)
                self._collector.align_clocks()
                self._collector.seal(force=True)
        finally:
            self._collector.close()
            self._index.close()

    def _read(self) -> float:
        begun = time.monotonic()
        taken = self._collector.tick()
        self.rows += taken.rows
        self.lags.add(taken.lags_s, begun)
        if taken.more and taken.rows:
            return 0.0
        if taken.more or taken.rows:  # more, but no room for it until something is sealed
            return max(BUSY_S - (time.monotonic() - begun), _REST_S)
        return LIVE_S if self.busy else IDLE_S

    def _seal(self) -> float:
        self._collector.seal()
        now_s = time.monotonic()
        if now_s - self._maintained_s >= _MAINTAIN_EVERY_S:
            self._maintained_s = now_s
            self._collector.maintain()
        return _SEAL_EVERY_S

    def _align(self) -> float:
        self._collector.align_clocks()
        return _ALIGN_EVERY_S

    def status(self) -> dict[str, Any]:
        """Figures, as JSON values."""
        lately, ever = self.lags.lately(time.monotonic()), self.lags.ever()
        runs = [{"run_id": run.run_id, "status": run.manifest.status} for run in self.live]
        return {
            "rows": self.rows,
            "hot_rows": self.rows_hot,
            "runs": runs,
            "lag": {"last_minute": vars(lately), "since_start": vars(ever)},
        }
