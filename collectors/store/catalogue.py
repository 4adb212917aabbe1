"""What is sealed: the seals of every run, and ``store.duckdb``, their index.

The seals are the truth. The index makes starting fast and lets any DuckDB read a store that is not
in use; where it is damaged, or of another version, it is moved aside and made again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from collectors.errors import DataError, OpsuiteError
from collectors.spool import Position
from collectors.store.index import Index, move_aside
from collectors.store.seal import read_seal, seals_directory

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from collectors.clocks.alignment import ClockEstimate
    from collectors.store.seal import DamagedStretch, Process, ReadPosition, Seal

_log = logging.getLogger("opsuite")


@dataclass(kw_only=True)
class SealedRun:
    """What the seals of one run say together.

    Attributes:
        seals: those that count, by id.
        positions: how far each segment was read, by file name.
        processes: by number.
        anchors: wall minus monotonic clock, by host and boot.
        clocks: the last estimate of each host's clock, by host and boot.
        left_out: seals that do not count, by file name, and why.
        expired: rows that retention took out.
    """

    run_id: str
    seals: dict[str, Seal] = field(default_factory=dict)
    positions: dict[str, ReadPosition] = field(default_factory=dict)
    processes: dict[int, Process] = field(default_factory=dict)
    anchors: dict[tuple[str, str], int] = field(default_factory=dict)
    damage: dict[tuple[str, int], DamagedStretch] = field(default_factory=dict)
    clocks: dict[tuple[str, str], ClockEstimate] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    expired: int = 0

    def add(self, seal: Seal) -> None:
        """Let a seal count, in place of those that it replaces."""
        for replaced in seal.replaces:
            self.seals.pop(replaced, None)
        self.seals[seal.seal_id] = seal
        for position in seal.positions:
            known = self.positions.get(position.file)
            if known is None or known.position <= position.position:
                self.positions[position.file] = position
        self.processes |= {process.process: process for process in seal.processes}
        for anchor in seal.anchors:
            self.anchors.setdefault((anchor.host, anchor.boot_id), anchor.offset_ns)
        self.damage |= {(stretch.file, stretch.position): stretch for stretch in seal.damage}
        self.clocks |= {(clock.host, clock.boot_id): clock for clock in seal.clocks}
        self.expired = sum(one.expired for one in self.seals.values())

    def start_over(self, seals: Iterable[Seal]) -> None:
        """Let these seals count, and no others. Whoever reads beside it sees the old or the new."""
        fresh = SealedRun(run_id=self.run_id, left_out=self.left_out)
        for seal in seals:
            fresh.add(seal)
        for name, value in vars(fresh).items():
            setattr(self, name, value)

    def read_positions(self) -> dict[str, Position]:
        """Where a spool reader goes on."""
        return {
            name: Position(offset=position.position, finished=position.finished)
            for name, position in self.positions.items()
        }

    def paths(self, table: str) -> list[str]:
        """The files of a table, the oldest first, inside of the directory ``parquet``."""
        return [
            file.path
            for _, seal in sorted(self.seals.items())
            for file in seal.files
            if file.table == table
        ]


class Catalogue:
    """The seals of all runs.

    Args:
        parquet: the directory of all sealed files.
        index: where seals are entered; None: this process only reads.
    """

    def __init__(self, parquet: Path, index: Index | None) -> None:
        self.parquet = parquet
        self._index = index
        self._runs: dict[str, SealedRun] = {}
        self._late: set[str] = set()  # runs that the index does not know whole
        if index is not None:
            for seal in index.seals():
                self.run(seal.run_id).add(seal)

    def run(self, run_id: str) -> SealedRun:
        """One run's seals, those in the index to begin with."""
        return self._runs.setdefault(run_id, SealedRun(run_id=run_id))

    def discover(self, run_id: str) -> SealedRun:
        """Take in what lies on the disk and is not known: after a crash, an import, a rebuild."""
        run = self.run(run_id)
        found = self._on_disk(run_id)
        replaced = {old for seal in found.values() for old in seal.replaces}
        for seal_id in replaced & set(found):  # a crash came between a seal and its clearing up
            del found[seal_id]
            if self._index is not None:  # else they would count again when that seal is replaced
                self._seal_path(run_id, seal_id).unlink(missing_ok=True)
        if found.keys() != run.seals.keys():
            run.start_over(found.values())
            if self._index is not None:
                self._index.replace_run(run)
        return run

    def _on_disk(self, run_id: str) -> dict[str, Seal]:
        """The seals of a run that are whole, with all of their files."""
        found = {}
        known = self.run(run_id).seals
        self.run(run_id).left_out.clear()
        for path in sorted(seals_directory(self.parquet, run_id).glob("*.json")):
            try:
                seal = known.get(path.stem) or read_seal(path)
                self._require_files(seal, path)
            except DataError as error:
                _log.warning("left out: %s", error)
                self.run(run_id).left_out[path.name] = error.what
                continue
            found[seal.seal_id] = seal
        return found

    def _require_files(self, seal: Seal, path: Path) -> None:
        for file in seal.files:
            try:
                size = (self.parquet / file.path).stat().st_size
            except OSError:
                raise DataError(f"a sealed file is missing: {file.path}", where=str(path)) from None
            if size != file.bytes:
                raise DataError(f"a sealed file is damaged: {file.path}", where=str(path))

    def enter(self, seal: Seal) -> None:
        """Enter a seal that counts on the disk, and clear away those that it replaces."""
        for replaced in seal.replaces:
            self._seal_path(seal.run_id, replaced).unlink(missing_ok=True)
        if self._index is None:
            return
        try:
            self._index.enter(seal)
        except OpsuiteError as error:  # the seal counts all the same
            _log.warning("the index is behind: %s", error)
            self._late.add(seal.run_id)

    def _seal_path(self, run_id: str, seal_id: str) -> Path:
        return seals_directory(self.parquet, run_id) / f"{seal_id}.json"

    def catch_up(self) -> None:
        """Enter what could not be entered before.

        Raises:
            StorageError, Unreachable: it still cannot.
        """
        if self._index is None or not self._late:
            return
        self._index.reopen()
        for run_id in sorted(self._late):
            self._index.replace_run(self.run(run_id))
            self._late.discard(run_id)

    def forget(self, run_id: str) -> None:
        """Leave out a run that was removed."""
        self._runs.pop(run_id, None)
        if self._index is not None:
            self._index.remove_run(run_id)

    def discover_all(self) -> None:
        """Take in the seals of all runs that have any."""
        for directory in sorted(seals_directory(self.parquet, "").glob("*/")):
            self.discover(directory.name)

    def seals(self) -> int:
        """How many seals count."""
        return sum(len(run.seals) for run in self._runs.values())

    def paths(self) -> set[str]:
        """Every sealed file that counts, inside of the directory ``parquet``."""
        self.discover_all()
        return {
            file.path for run in self._runs.values() for s in run.seals.values() for file in s.files
        }


def rebuild(home: Path) -> int:
    """Make the index anew from the seals; how many there are. The old one goes when that is done.

    What is not sealed comes from the spools with the next reading. The caller holds the store's
    lock alone.

    Raises:
        StorageError: the disk refused.
        Unreachable: another program has the index open.
    """
    aside: list[Path] = []
    if (home / "store.duckdb").exists():
        moved = move_aside(home / "store.duckdb")
        aside = [moved, moved.with_name(f"{moved.name}.wal")]
    index = Index(home)
    try:
        catalogue = Catalogue(home / "parquet", index)
        catalogue.discover_all()
    finally:
        index.close()
    for path in aside:
        path.unlink(missing_ok=True)
    return catalogue.seals()
