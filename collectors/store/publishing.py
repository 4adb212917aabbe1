"""From what is sealed and hot to the snapshot that sessions read."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from collectors.store.seal import DamagedStretch
from collectors.store.snapshot import Snapshot, Sources
from collectors.store.tables import BULK, DAMAGE, PROCESS, RUN, SMALL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from collectors.labels import Labels
    from collectors.store.hot import HotTier
    from collectors.store.housekeeping import Housekeeping
    from collectors.store.run_clocks import Estimates
    from collectors.store.seal import Process
    from collectors.store.tail import Tail

    Entries = Sequence[tuple[Tail, Labels]]

_ONE_CLOCK = {"clock_offset_ns": 0, "clock_drift": 0.0, "clock_at_ns": 0, "clock_error_ns": 0}


class Publisher:
    """Keeps the snapshot; the caller sees to it that one thread at a time is in here.

    Attributes:
        snapshot: the newest one.
    """

    def __init__(self, parquet: Path, tier: HotTier, housekeeping: Housekeeping) -> None:
        self._parquet = parquet
        self._tier = tier
        self._housekeeping = housekeeping
        self._sealed: dict[str, tuple[str, ...]] = {}
        self._small: dict[str, Sources] = {}
        self._dirty_rows = self._dirty_seals = self._dirty_small = True
        self.snapshot = Snapshot(version=0, parquet=str(parquet))

    def note(self, *, rows: bool = False, seals: bool = False, small: bool = False) -> None:
        """Something has changed: hot rows, seals, or runs and processes."""
        self._dirty_rows |= rows
        self._dirty_seals |= seals
        self._dirty_small |= small

    def publish(self, entries: Entries) -> None:
        """Make a new snapshot if anything has changed.

        Raises:
            OSError: the small tables could not be written; the last snapshot stays.
        """
        if not (self._dirty_rows or self._dirty_seals or self._dirty_small):
            return
        tails = [tail for tail, _ in entries]
        if self._dirty_small:
            self._write_small(entries)
        if self._dirty_seals or self._dirty_small:
            self._sealed = {name: self._sealed_files(name, tails) for name in BULK}
        hot = _hot_files(tails)
        bulk = {
            name: Sources(parquet=self._sealed[name], hot=tuple(hot.get(name, ()))) for name in BULK
        }
        self.snapshot = Snapshot(
            version=self.snapshot.version + 1,
            parquet=str(self._parquet),
            run_ids=tuple(tail.run.run_id for tail in tails),
            tables=bulk | self._small,
        )
        self._dirty_rows = self._dirty_seals = self._dirty_small = False

    def _sealed_files(self, table: str, tails: Iterable[Tail]) -> tuple[str, ...]:
        return tuple(
            f"{self._parquet}/{path}" for tail in tails for path in tail.sealed.paths(table)
        )

    def _write_small(self, entries: Entries) -> None:
        rows = {
            RUN.name: [_run_row(tail, labels) for tail, labels in entries],
            PROCESS.name: [row for tail, _ in entries for row in _process_rows(tail)],
            DAMAGE.name: [row for tail, _ in entries for row in _damage_rows(tail)],
        }
        before = [path for sources in self._small.values() for path in sources.hot]
        written = {
            name: self._tier.write(name, pa.Table.from_pylist(rows[name], table.schema))
            for name, table in SMALL.items()
        }
        self._small = {name: Sources(hot=(str(file.path),)) for name, file in written.items()}
        self._housekeeping.retire(before)


def _hot_files(tails: Iterable[Tail]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for tail in tails:
        for generation in tail.generations():
            for file in generation.files:
                files.setdefault(file.table, []).append(str(file.path))
    return files


def _run_row(tail: Tail, labels: Labels) -> dict[str, Any]:
    row = asdict(tail.run.manifest)
    row |= {name: json.dumps(row[name]) for name in ("command", "config")}
    return row | {
        "tags": json.dumps(labels.tags),
        "pinned": labels.pinned,
        "expired": tail.sealed.expired,
    }


def _process_rows(tail: Tail) -> list[dict[str, Any]]:
    dropped: dict[int | None, int] = {}
    for position in tail.positions().values():
        dropped[position.process] = dropped.get(position.process, 0) + position.dropped
    processes = tail.processes()
    ranks = {
        one.rank: (one.host, one.boot_id) for one in processes.values() if one.rank is not None
    }
    reference = ranks[min(ranks)] if len(set(ranks.values())) > 1 else None
    return [
        {
            **vars(process),
            "run_id": tail.run.run_id,
            "dropped": dropped.get(number, 0),
            **_clock(tail.clocks.estimates, process, reference),
        }
        for number, process in processes.items()
    ]


def _clock(
    estimates: Estimates, process: Process, reference: tuple[str, str] | None
) -> dict[str, Any]:
    """A process's clock; without an error bound where nothing connects it to the reference."""
    where = (process.host, process.boot_id)
    found = estimates.get(where)
    if found is None:
        return _ONE_CLOCK | ({} if reference in (None, where) else {"clock_error_ns": None})
    known = {name: getattr(found, name) for name in ("offset_ns", "drift", "at_ns", "error_ns")}
    return {f"clock_{name}": value for name, value in known.items()}


def _damage_rows(tail: Tail) -> list[dict[str, Any]]:
    stretches = [*tail.sealed.damage.values()]
    stretches += [
        DamagedStretch(file=name, position=0, what=what)
        for name, what in tail.sealed.left_out.items()
    ]
    for generation in tail.generations():
        stretches += generation.damage
    return [{"run_id": tail.run.run_id, **vars(stretch)} for stretch in stretches]
