"""How hot rows become sealed ones, and many small seals one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa

from collectors.clock import host_name
from collectors.store.parquet import read_parquet, write_parquet
from collectors.store.rollup import coarsen, rollup
from collectors.store.seal import Seal, new_seal_id
from collectors.store.tables import BULK, ROLLUP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from collectors.clocks.alignment import ClockEstimate
    from collectors.store.catalogue import SealedRun
    from collectors.store.seal import HostAnchor, ReadPosition, SealedFile
    from collectors.store.tail import Generation


@dataclass(frozen=True, kw_only=True)
class SealingLimits:
    """When hot rows are sealed, and when seals are merged.

    Attributes:
        rows: a run's hot rows at which they are sealed.
        age_s: how long a row stays hot at most.
        merge_count: how many small seals become one.
        merge_rows: what is small, and the most that are merged at once.
    """

    rows: int = 1_000_000
    age_s: float = 30.0
    merge_count: int = 12
    merge_rows: int = 2_000_000


def write_seal(
    parquet: Path,
    run_id: str,
    generation: Generation,
    wall_ns: int,
    clocks: Iterable[ClockEstimate] = (),
) -> Seal:
    """Write a generation's Parquet files; the seal returned is not committed yet.

    Raises:
        OSError: nothing is left of them.
    """
    seal_id = new_seal_id(wall_ns)
    rows = _by_table(generation)
    tables = {name: [pa.concat_tables(parts)] for name, parts in rows.items()}
    if tables:
        tables[ROLLUP.name] = [rollup({name: parts[0] for name, parts in tables.items()})]
    return Seal(
        seal_id=seal_id,
        run_id=run_id,
        host=host_name(),
        sealed_ns=wall_ns,
        files=_write(parquet, tables, run_id, seal_id),
        positions=tuple(generation.positions.values()),
        processes=tuple(generation.processes.values()),
        anchors=tuple(generation.anchors.values()),
        damage=tuple(generation.damage),
        clocks=tuple(clocks),
    )


def _by_table(generation: Generation) -> dict[str, list[pa.Table]]:
    rows: dict[str, list[pa.Table]] = {}
    for file in generation.files:
        rows.setdefault(file.table, []).append(file.read())
    return rows


def _write(
    parquet: Path, tables: Mapping[str, Iterable[pa.Table]], run_id: str, seal_id: str
) -> tuple[SealedFile, ...]:
    written: list[SealedFile] = []
    try:
        for name, parts in tables.items():
            written.append(write_parquet(parquet, name, parts, run_id=run_id, seal_id=seal_id))
    except BaseException:
        for file in written:
            (parquet / file.path).unlink(missing_ok=True)
        raise
    return tuple(written)


def small_seals(run: SealedRun, limits: SealingLimits, *, settled: bool) -> list[Seal]:
    """The oldest seals of this host that should become one; [] where there are too few.

    Only neighbours of one kind are merged: of some the single rows have expired, and to take their
    sums along with others again and again would cost more with every day.
    """
    enough = 2 if settled else limits.merge_count
    ordered = [seal for _, seal in sorted(run.seals.items())]
    small = [s for s in ordered if s.host == host_name() and s.rows * 2 < limits.merge_rows]
    for _, neighbours in groupby(small, key=_has_rows):
        chosen: list[Seal] = []
        for seal in neighbours:
            if sum(one.rows for one in chosen) + seal.rows > limits.merge_rows:
                break
            chosen.append(seal)
        if len(chosen) >= enough:
            return chosen
    return []


def _has_rows(seal: Seal) -> bool:
    return any(file.table != ROLLUP.name for file in seal.files)


def merge_seals(parquet: Path, seals: Sequence[Seal], wall_ns: int, spool: Path) -> Seal:
    """Write one seal's files in place of several.

    Args:
        spool: where the run's segments are; positions in those that are gone are not kept.

    Raises:
        OSError: nothing is left of them.
    """
    streams = {name: _stored(parquet, seals, name) for name in BULK if _has(seals, name)}
    return _standing_for(parquet, seals, wall_ns, spool, streams)


def thin_seals(parquet: Path, seals: Sequence[Seal], wall_ns: int, spool: Path) -> Seal:
    """Write one seal in place of several that has their roll-ups only, by minute.

    Raises:
        OSError: nothing is left of them.
    """
    sums = coarsen(_stored(parquet, seals, ROLLUP.name))
    thinned = _standing_for(parquet, seals, wall_ns, spool, {ROLLUP.name: [sums]})
    gone = sum(file.rows for seal in seals for file in seal.files if file.table != ROLLUP.name)
    return replace(thinned, expired=thinned.expired + gone)


def _has(seals: Sequence[Seal], table: str) -> bool:
    return any(file.table == table for seal in seals for file in seal.files)


def _stored(parquet: Path, seals: Sequence[Seal], table: str) -> Iterator[pa.Table]:
    """The rows of a table in several seals, a row group at a time."""
    for seal in seals:
        for file in seal.files:
            if file.table == table:
                yield from read_parquet(parquet, file, seal.run_id)


def _standing_for(
    parquet: Path,
    seals: Sequence[Seal],
    wall_ns: int,
    spool: Path,
    streams: Mapping[str, Iterable[pa.Table]],
) -> Seal:
    """One seal with these rows, and with all else that several others say."""
    seal_id = new_seal_id(wall_ns)
    run_id = seals[0].run_id
    return Seal(
        seal_id=seal_id,
        run_id=run_id,
        host=host_name(),
        sealed_ns=wall_ns,
        files=_write(parquet, streams, run_id, seal_id),
        positions=_last_positions(seals, spool),
        processes=tuple({p.process: p for seal in seals for p in seal.processes}.values()),
        anchors=_first_anchors(seals),
        damage=tuple(one for seal in seals for one in seal.damage),
        clocks=tuple({(c.host, c.boot_id): c for seal in seals for c in seal.clocks}.values()),
        expired=sum(seal.expired for seal in seals),
        replaces=tuple(seal.seal_id for seal in seals),
    )


def _first_anchors(seals: Sequence[Seal]) -> tuple[HostAnchor, ...]:
    first = {(a.host, a.boot_id): a for seal in reversed(seals) for a in seal.anchors}
    return tuple(first.values())


def _last_positions(seals: Sequence[Seal], spool: Path) -> tuple[ReadPosition, ...]:
    """How far each segment was read; of one that is gone only what it had dropped matters."""
    last: dict[str, ReadPosition] = {}
    for seal in seals:
        for position in seal.positions:
            known = last.get(position.file)
            if known is None or known.position <= position.position:
                last[position.file] = position
    return tuple(
        one
        for one in last.values()
        if one.dropped or not one.finished or (spool / one.file).exists()
    )
