"""The collector: follows all runs of a home, and keeps the store's files and its snapshot.

Reading (:meth:`Collector.tick`) and sealing (:meth:`Collector.seal`) may run in two threads. The
daemon does both for as long as it lives; a command without a daemon reads once.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from collectors.clock import now_ns
from collectors.store.catalogue import Catalogue
from collectors.store.hot import HotTier
from collectors.store.housekeeping import Housekeeping
from collectors.store.publishing import Publisher
from collectors.store.roster import Roster
from collectors.store.seal import commit_seal
from collectors.store.sealing import SealingLimits, merge_seals, small_seals, thin_seals, write_seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from collectors.run import RunDirectory
    from collectors.store.index import Index
    from collectors.store.seal import Seal
    from collectors.store.snapshot import Snapshot
    from collectors.store.tail import Generation, Tail

ROWS_A_READING = 500_000
MOST_HOT_ROWS = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one tick gave.

    Attributes:
        rows: new records.
        lags_s: how old each record of this host was when it could be read.
        more: there is more to take at once.
    """

    rows: int
    lags_s: NDArray[np.float64]
    more: bool


class Collector:
    """Collects the runs of ``home``.

    Args:
        index: the index, for the one process that may seal; None: this one only reads.
        wall_ns: the wall clock, for ages and ids of seals.
    """

    def __init__(
        self,
        home: Path,
        index: Index | None,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        limits: SealingLimits | None = None,
    ) -> None:
        self.parquet = home / "parquet"
        self.limits = limits or SealingLimits()
        self._wall_ns = wall_ns
        self._lock = threading.RLock()  # over tails, catalogue and snapshot; never held while
        self._sealing = threading.Lock()  # files are written. This one: one sealer at a time
        self._swept = False
        self._tier = HotTier(home)
        self._catalogue = Catalogue(self.parquet, index)
        self._roster = Roster(home, self._catalogue)
        self._housekeeping = Housekeeping(self.parquet, wall_ns)
        self._publisher = Publisher(self.parquet, self._tier, self._housekeeping)
        if index is not None:
            self._tier.clear_abandoned()

    # -- reading ----------------------------------------------------------------------------------

    def tick(self) -> Taken:
        """Take what is new in all runs.

        Raises:
            OSError: the hot files cannot be written; what was not taken stays in the spools.
            StorageError: a spool cannot be read.
        """
        with self._lock:
            self._publisher.note(small=self._roster.refresh(self._wall_ns()))
            due = self._roster.due(self._wall_ns())
        rows, more = 0, False
        made: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        for tail in due:
            if self.rows_hot > MOST_HOT_ROWS:
                more = True  # sealing is behind: the spools keep the rest meanwhile
                break
            taken, moments, unread = self._read(tail)
            rows, more = rows + taken, more or unread
            made.append(moments)
        with self._lock:
            self._publisher.publish(self._roster.entries())
        lags_s = (now_ns() - np.concatenate(made)) / 1e9
        return Taken(rows=rows, lags_s=lags_s, more=more)

    def _read(self, tail: Tail) -> tuple[int, NDArray[np.int64], bool]:
        wall_ns = self._wall_ns()
        fresh, reading = tail.read(self._tier, limit=ROWS_A_READING, wall_ns=wall_ns)
        tail.unread = reading.more
        if fresh.positions:
            with self._lock:
                tail.hot.take_over(fresh)
                tail.clocks.note(fresh.files)
                tail.moved_ns = wall_ns
                lost = any(one.dropped for one in fresh.positions.values())
                small = bool(lost or fresh.processes or fresh.damage)
                self._publisher.note(rows=bool(fresh.files), small=small)
        return reading.rows, reading.made_ns, reading.more

    def align_clocks(self) -> None:
        """Estimate the clocks of runs on several hosts again; in whatever thread has the time."""
        wall_ns = self._wall_ns()
        with self._lock:
            tails = [(tail, tail.processes()) for tail in self._roster.tails() if tail.clocks.due]
        for tail, processes in tails:
            if tail.clocks.update(processes, wall_ns, ended=not tail.lives(wall_ns)):
                with self._lock:
                    self._publisher.note(small=True)
                    self._publisher.publish(self._roster.entries())

    @property
    def snapshot(self) -> Snapshot:
        """All that can be read now."""
        with self._lock:
            return self._publisher.snapshot

    @property
    def live(self) -> list[RunDirectory]:
        """The runs in which more may happen."""
        now = self._wall_ns()
        with self._lock:
            return [tail.run for tail in self._roster.tails() if tail.lives(now)]

    @property
    def rows_hot(self) -> int:
        """How many rows are read and not sealed."""
        with self._lock:
            return sum(g.rows for tail in self._roster.tails() for g in tail.generations())

    # -- sealing ----------------------------------------------------------------------------------

    def seal(self, *, force: bool = False) -> bool:
        """Seal the hot rows of each run where it is due; whether anything was sealed.

        Raises:
            OSError: the disk refused; the rows stay hot.
        """
        with self._sealing:
            with self._lock:
                due = [tail for tail in self._roster.tails() if self._is_due(tail, force)]
            for tail in due:
                self._seal(tail)
            return bool(due)

    def _is_due(self, tail: Tail, force: bool) -> bool:
        hot = tail.sealing or tail.hot
        if not hot.positions:
            return False
        age_s = (self._wall_ns() - hot.began_ns) / 1e9
        settled = age_s > 2.0 and not tail.lives(self._wall_ns())
        full = hot.rows >= self.limits.rows or not 0 <= age_s < self.limits.age_s
        return force or settled or full or tail.sealing is not None

    def _seal(self, tail: Tail) -> None:
        with self._lock:
            generation = tail.begin_sealing()
        seal = self._write_seal(tail, generation)
        self._commit(seal)
        with self._lock:
            tail.sealing = None
            self._catalogue.run(seal.run_id).add(seal)
            self._publish_seals()
            self._housekeeping.retire([file.path for file in generation.files])
        self._catalogue.enter(seal)

    def _write_seal(self, tail: Tail, generation: Generation) -> Seal:
        clocks = [clock for clock in tail.clocks.estimates.values() if clock is not None]
        return write_seal(self.parquet, tail.run.run_id, generation, self._wall_ns(), clocks)

    def _publish_seals(self) -> None:
        self._publisher.note(seals=True)
        self._publisher.publish(self._roster.entries())

    def _commit(self, seal: Seal) -> None:
        """From here on the seal counts."""
        try:
            commit_seal(self.parquet, seal)
        except BaseException:
            for file in seal.files:
                (self.parquet / file.path).unlink(missing_ok=True)
            raise

    def maintain(self) -> None:
        """Merge small seals, remove what nobody reads any more, have the disk keep the spools."""
        with self._sealing:
            self._sweep()
            for tail in self._tails_with_seals():
                settled = not tail.lives(self._wall_ns())
                if seals := small_seals(tail.sealed, self.limits, settled=settled):
                    merged = merge_seals(self.parquet, seals, self._wall_ns(), tail.run.spool)
                    self._replace(seals, merged)
            with self._lock:
                tails = self._roster.tails()
                for tail in tails:
                    self._housekeeping.retire(tail.take_sealed_segments())
            self._housekeeping.sync_spools(tails)
            self._catalogue.catch_up()
            self._housekeeping.remove_retired()

    def repair(self) -> None:
        """Read again what somebody has removed of the hot files, and leave out sealed ones."""
        with self._sealing, self._lock:
            for tail in self._roster.tails():
                self._catalogue.discover(tail.run.run_id)
                tail.read_lost_again()
            self._publisher.note(rows=True, seals=True, small=True)
            self._publisher.publish(self._roster.entries())

    def _sweep(self) -> None:
        """Remove, once, the sealed files of which a crash prevented the commit."""
        if not self._swept:
            with self._lock:
                counting = self._catalogue.paths()
            self._housekeeping.remove_orphans(counting)
            self._swept = True

    def thin(self, run_id: str, seal_ids: Iterable[str]) -> int:
        """Let the recorded rows of some seals expire, roll-ups apart; how many that were."""
        with self._sealing:
            with self._lock:
                known = self._catalogue.run(run_id).seals
                seals = [known[seal_id] for seal_id in seal_ids if seal_id in known]
            if not seals:
                return 0
            spool = self._roster.spool(run_id)
            merged = thin_seals(self.parquet, seals, self._wall_ns(), spool)
            self._replace(seals, merged)
            return merged.expired - sum(seal.expired for seal in seals)

    def _tails_with_seals(self) -> list[Tail]:
        with self._lock:
            return [tail for tail in self._roster.tails() if len(tail.sealed.seals) > 1]

    def _replace(self, seals: Sequence[Seal], merged: Seal) -> None:
        self._commit(merged)
        with self._lock:
            run = self._catalogue.run(merged.run_id)
            run.add(merged)
            run.start_over(run.seals.values())  # forgets what the merging has left out
            self._publish_seals()
            paths = [self.parquet / file.path for seal in seals for file in seal.files]
            self._housekeeping.retire(paths)
        self._catalogue.enter(merged)

    def close(self) -> None:
        """Remove the hot tier; seal before, where that is wanted."""
        self._tier.close()
