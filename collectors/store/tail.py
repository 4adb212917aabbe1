"""A run as it is being collected: what of its spool is sealed, what is hot, and what is new."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from collectors.clock import boot_id
from collectors.spool import Position, SpoolReader
from collectors.store.frames import Frames, process_id, times
from collectors.store.run_clocks import RunClocks
from collectors.store.seal import DamagedStretch, HostAnchor, Process, ReadPosition

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from collectors.run import RunDirectory
    from collectors.spool import Batch
    from collectors.store.catalogue import SealedRun
    from collectors.store.hot import HotFile, HotTier

_SILENT_NS = 600 * 10**9


@dataclass(kw_only=True)
class Generation:
    """Hot rows of a run that will be sealed together, with all that is to be known of them."""

    began_ns: int = 0
    files: list[HotFile] = field(default_factory=list)
    positions: dict[str, ReadPosition] = field(default_factory=dict)
    processes: dict[int, Process] = field(default_factory=dict)
    anchors: dict[tuple[str, str], HostAnchor] = field(default_factory=dict)
    damage: list[DamagedStretch] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows its files have."""
        return sum(file.rows for file in self.files)

    def take_over(self, other: Generation) -> None:
        """Add what another one holds."""
        self.began_ns = self.began_ns or other.began_ns
        self.files += other.files
        self.positions |= other.positions
        self.processes |= other.processes
        self.anchors |= other.anchors
        self.damage += other.damage


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one look into the spool gave.

    Attributes:
        rows: how many records.
        made_ns: when each of this host's was made, monotonic.
        more: there is more than was taken.
    """

    rows: int
    made_ns: NDArray[np.int64]
    more: bool


class Tail:
    """One run's spool, read on and on.

    Attributes:
        hot: rows that were read and are not sealed.
        sealing: rows that are being sealed just now.
        clocks: of its hosts.
        unread: there may be more in the spool than was read.
        moved_ns: when there was something new last.
    """

    def __init__(self, run: RunDirectory, sealed: SealedRun, parquet: Path) -> None:
        self.run = run
        self.sealed = sealed
        self.clocks = RunClocks(parquet, sealed)
        self.hot = Generation()
        self.sealing: Generation | None = None
        self.unread = True
        self.moved_ns = 0
        self._told: set[str] = set()
        self._rewind()

    def _rewind(self) -> None:
        """Read on from what is known to be kept."""
        positions = self.sealed.read_positions()
        for generation in self.generations():
            for name, position in generation.positions.items():
                positions[name] = Position(offset=position.position, finished=position.finished)
        self._reader = SpoolReader(self.run.spool, positions)

    def begin_sealing(self) -> Generation:
        """What is hot stays as it is until it is sealed; new rows go elsewhere."""
        if self.sealing is None:
            self.sealing, self.hot = self.hot, Generation()
        return self.sealing

    def take_sealed_segments(self) -> list[Path]:
        """The spool files of which all is sealed, each told once."""
        whole = {name for name, one in self.sealed.positions.items() if one.finished}
        fresh = whole - self._told
        self._told = whole
        return [self.run.spool / name for name in sorted(fresh)]

    def read_lost_again(self) -> None:
        """Forget what is hot if a file of it is gone, and read it again from the spool."""
        if all(file.path.exists() for one in self.generations() for file in one.files):
            return
        self.hot, self.sealing = Generation(), None
        self.unread = True
        self._rewind()

    def generations(self) -> list[Generation]:
        """What is hot, the oldest first."""
        return [self.hot] if self.sealing is None else [self.sealing, self.hot]

    def positions(self) -> dict[str, ReadPosition]:
        """How far each segment was read, sealed or not."""
        merged = dict(self.sealed.positions)
        for generation in self.generations():
            merged |= generation.positions
        return merged

    def processes(self) -> dict[int, Process]:
        """Whoever has recorded so far."""
        merged = dict(self.sealed.processes)
        for generation in self.generations():
            for number, process in generation.processes.items():
                merged.setdefault(number, process)
        return merged

    def lives(self, wall_ns: int) -> bool:
        """Whether more may come: it runs, or somebody has a segment open and is not long silent."""
        if self.run.manifest.status == "running":
            return True
        open_segments = any(not one.finished for one in self.positions().values())
        return open_segments and wall_ns - self.moved_ns < _SILENT_NS

    def read(self, tier: HotTier, *, limit: int, wall_ns: int) -> tuple[Generation, Reading]:
        """Read what is new, at most about ``limit`` rows, into hot files.

        The caller lets the generation count; OSError: nothing was read.
        """
        frames, fresh = Frames(self.run.run_id), Generation(began_ns=wall_ns)
        made: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        more = False
        try:
            for batch in self._reader.batches():
                self._stage(batch, frames, fresh)
                if batch.boot_id == boot_id():
                    made.append(times(batch.records))
                if more := frames.rows >= limit:
                    break
            for name, table in frames.tables().items():
                fresh.files.append(tier.write(name, table))
        except BaseException:
            for file in fresh.files:
                file.path.unlink(missing_ok=True)
            self._rewind()
            raise
        return fresh, Reading(rows=frames.rows, made_ns=np.concatenate(made), more=more)

    def _stage(self, batch: Batch, frames: Frames, fresh: Generation) -> None:
        number = None
        if batch.identity is not None:
            number = process_id(self.run.run_id, batch.process)
            offset_ns = self._offset_ns(batch, fresh)
            if number not in self.sealed.processes and number not in self.hot.processes:
                fresh.processes.setdefault(number, _process(number, batch, offset_ns))
            frames.add(batch, offset_ns)
        fresh.positions[batch.segment] = ReadPosition(
            file=batch.segment,
            process=number,
            position=batch.position.offset,
            finished=batch.position.finished,
            dropped=batch.dropped,
        )
        fresh.damage += [
            DamagedStretch(file=batch.segment, position=one.position, what=one.what)
            for one in batch.damage
        ]

    def _offset_ns(self, batch: Batch, fresh: Generation) -> int:
        """Wall minus monotonic clock of a host: what its first segment said, for all of the run."""
        assert batch.identity is not None
        where = (batch.identity.host, batch.boot_id)
        if where in self.sealed.anchors:
            return self.sealed.anchors[where]
        for generation in (*self.generations(), fresh):
            if where in generation.anchors:
                return generation.anchors[where].offset_ns
        host, boot = where
        anchor = HostAnchor(host=host, boot_id=boot, offset_ns=batch.anchor_ns)
        fresh.anchors[where] = anchor
        return anchor.offset_ns


def _process(number: int, batch: Batch, offset_ns: int) -> Process:
    who = batch.identity
    assert who is not None
    return Process(
        process=number,
        key=batch.process,
        role=who.role,
        rank=who.rank,
        world_size=who.world_size,
        host=who.host,
        boot_id=batch.boot_id,
        pid=batch.pid,
        coordinates=json.dumps(who.coordinates),
        opened_ns=batch.opened_ns + offset_ns,
    )
