"""Which runs there are, and which of them may have something new."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.errors import DataError, StorageError
from collectors.labels import read_labels
from collectors.run import RunDirectory
from collectors.store.tail import Tail

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.labels import Labels
    from collectors.store.catalogue import Catalogue

_log = logging.getLogger("opsuite")
_LOOK_NS = 10**9


@dataclass(kw_only=True)
class _Entry:
    """A run in the roster, and what its files looked like last time."""

    tail: Tail
    labels: Labels
    stamps: tuple[int, ...] = ()
    spool_ns: int = -1


class Roster:
    """The runs of a home."""

    def __init__(self, home: Path, catalogue: Catalogue) -> None:
        self._directory = home / "runs"
        self._catalogue = catalogue
        self._entries: dict[str, _Entry] = {}
        self._bad: dict[str, int] = {}
        self._stamp = -1
        self._looked_ns = 0

    def spool(self, run_id: str) -> Path:
        """Where a run's segments are."""
        return self._directory / run_id / "spool"

    def tails(self) -> list[Tail]:
        """All runs, in no order."""
        return [entry.tail for entry in self._entries.values()]

    def entries(self) -> list[tuple[Tail, Labels]]:
        """All runs with their labels, the newest first."""
        ordered = sorted(self._entries.values(), key=_age, reverse=True)
        return [(entry.tail, entry.labels) for entry in ordered]

    def refresh(self, wall_ns: int) -> bool:
        """Look for runs that came, went, or changed; whether there are any."""
        stamp = _modified(self._directory)
        look = stamp != self._stamp or not 0 <= wall_ns - self._looked_ns < _LOOK_NS
        if not look:
            return False
        self._stamp, self._looked_ns = stamp, wall_ns
        names = self._names()
        changed = False
        for run_id in self._entries.keys() - names:
            del self._entries[run_id]
            self._catalogue.forget(run_id)
            changed = True
        for run_id in names:
            changed |= self._look_at(run_id)
        return changed

    def _names(self) -> set[str]:
        try:
            with os.scandir(self._directory) as entries:
                return {e.name for e in entries if e.is_dir() and not e.name.startswith(".")}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise StorageError.from_os_error(error, "listing the runs") from error

    def _look_at(self, run_id: str) -> bool:
        path = self._directory / run_id
        stamps = (_modified(path / "run.json"), _modified(path / "labels.json"))
        entry = self._entries.get(run_id)
        if entry is None:
            return self._bad.get(run_id) != stamps[0] and self._add(run_id, stamps)
        if stamps == entry.stamps and entry.tail.run.manifest.status != "running":
            return False
        before = (entry.tail.run.manifest, entry.labels)
        try:
            entry.tail.run = RunDirectory.load(path)
            entry.labels = read_labels(path)
        except DataError as error:
            _log.warning("a run's manifest has become unreadable: %s", error)
        entry.stamps = stamps
        return before != (entry.tail.run.manifest, entry.labels)

    def _add(self, run_id: str, stamps: tuple[int, int]) -> bool:
        path = self._directory / run_id
        try:
            run, labels = RunDirectory.load(path), read_labels(path)
        except DataError as error:
            _log.warning("skipped: %s", error)
            self._bad[run_id] = stamps[0]
            return False
        tail = Tail(run, self._catalogue.discover(run_id), self._catalogue.parquet)
        self._entries[run_id] = _Entry(tail=tail, labels=labels, stamps=stamps)
        return True

    def due(self, wall_ns: int) -> list[Tail]:
        """The runs to read now: those that live, and those whose spool has changed."""
        chosen = []
        for entry in self._entries.values():
            spool_ns = _modified(entry.tail.run.spool)
            if spool_ns != entry.spool_ns or entry.tail.lives(wall_ns):
                entry.spool_ns = spool_ns
                entry.tail.unread = True
            if entry.tail.unread:
                chosen.append(entry.tail)
        return chosen


def _age(entry: _Entry) -> tuple[int, str]:
    manifest = entry.tail.run.manifest
    return manifest.started_ns, manifest.run_id


def _modified(path: Path) -> int:
    """When a file or directory changed last; 0 where it is not."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
