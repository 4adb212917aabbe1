"""From the spools into the tables: each record once, whatever interrupts the ingestion.

The rows and how far the spools were read are committed in one transaction.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from collectors.record import Kind, kinds, name_ids
from collectors.run import list_runs
from collectors.spool import Batch, Position, SpoolReader

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb
    from numpy.typing import NDArray

    from collectors.run import RunDirectory

_INSERT_RUN = """
    INSERT OR REPLACE INTO raw.run VALUES (
        $run_id, $name, $kind, $status, $command, $config, $git_commit, $version, $host, $pid,
        $world_size, $started_ns, $ended_ns, $exit_code, $notes
    )
"""
ROWS_A_TRANSACTION = 500_000
_NO_TEXT = -1

_INSERTS = {
    Kind.SPAN: """
        INSERT INTO raw.span SELECT process, n.text, step, start_ns, end_ns
        FROM frame JOIN texts AS n ON n.code = name""",
    Kind.COLLECTIVE: """
        INSERT INTO raw.collective
        SELECT process, n.text, g.text, group_size, sequence, value::BIGINT, step, start_ns, end_ns
        FROM frame JOIN texts AS n ON n.code = name JOIN texts AS g ON g.code = "group" """,
    Kind.SAMPLE: """
        INSERT INTO raw.sample
        SELECT process, n.text, step, start_ns, CASE WHEN is_nan THEN 'nan' ELSE value END
        FROM frame JOIN texts AS n ON n.code = name""",
    Kind.EVENT: """
        INSERT INTO raw.event SELECT process, n.text, step, start_ns, value, a.text
        FROM frame JOIN texts AS n ON n.code = name LEFT JOIN texts AS a ON a.code = attributes""",
}


def ingest(connection: duckdb.DuckDBPyConnection, home: Path) -> int:
    """Store what is new in the runs of ``home``; returns how many records that was."""
    return _Ingestion(connection).take(list_runs(home))


class _Ingestion:
    """One pass over the spools; collects frames of many segments, and stores them together."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._texts: dict[str, int] = {}
        self._frames: list[dict[str, NDArray[Any]]] = []
        self._moves: list[tuple[str, Batch]] = []
        self._rows = 0
        self._processes: dict[tuple[str, str], int] = {
            (run_id, key): process
            for run_id, key, process in self._rows_of(
                "SELECT run_id, key, process FROM raw.process"
            )
        }
        self._anchors: dict[tuple[str, str, str], int] = {
            (run_id, host, boot_id): offset
            for run_id, host, boot_id, offset in self._rows_of("SELECT * FROM raw.anchor")
        }

    def _rows_of(self, sql: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql).fetchall()

    def take(self, runs: list[RunDirectory]) -> int:
        positions: dict[str, dict[str, Position]] = {}
        for run_id, file, offset, finished in self._rows_of(
            "SELECT run_id, file, position, finished FROM raw.segment"
        ):
            known = positions.setdefault(run_id, {})
            known[file] = Position(offset=offset, finished=finished)
        self._store_manifests(runs)
        total = 0
        for run in reversed(runs):
            total += self._take_run(run, positions.get(run.run_id, {}))
        return total + self._commit()

    def _take_run(self, run: RunDirectory, positions: dict[str, Position]) -> int:
        total = 0
        batches = SpoolReader(run.spool, positions).poll()
        for batch in sorted(batches, key=lambda batch: batch.opened_ns):
            self._moves.append((run.run_id, batch))
            if batch.identity is not None:
                self._collect(run.run_id, batch)
            if self._rows >= ROWS_A_TRANSACTION:
                total += self._commit()
        return total

    # -- a segment's records as a frame -----------------------------------------------------------

    def _collect(self, run_id: str, batch: Batch) -> None:
        assert batch.identity is not None
        anchor = (run_id, batch.identity.host, batch.boot_id)
        offset = self._anchors.setdefault(anchor, batch.anchor_ns)
        records = batch.records[kinds(batch.records) != Kind.DEFINE]
        codes = self._codes(batch)
        process = self._processes.setdefault((run_id, batch.process), len(self._processes) + 1)
        self._frames.append(
            {
                "kind": kinds(records),
                "process": np.full(len(records), process, dtype=np.int32),
                "name": _look_up(codes, name_ids(records)),
                "group": _look_up(codes, records["group"]),
                "attributes": _look_up(codes, records["attributes"]),
                "start_ns": records["start_ns"] + offset,
                "end_ns": records["end_ns"] + offset,
                "step": records["step"],
                "sequence": records["sequence"],
                "value": records["value"],
                "is_nan": np.isnan(records["value"]),  # DuckDB takes NumPy's NaN for NULL
                "group_size": records["group_size"],
            }
        )
        self._rows += len(records)

    def _codes(self, batch: Batch) -> NDArray[np.int32]:
        """For each text id of the segment the number of the text in this ingestion."""
        codes = np.full(max(batch.names, default=0) + 1, _NO_TEXT, dtype=np.int32)
        for identifier, text in batch.names.items():
            codes[identifier] = self._texts.setdefault(text, len(self._texts))
        return codes

    # -- storing ----------------------------------------------------------------------------------

    def _commit(self) -> int:
        if not self._moves:
            return 0
        self._connection.execute("BEGIN")
        try:
            stored = self._store_frames()
            for run_id, batch in self._moves:
                self._store_move(run_id, batch)
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._frames, self._moves, self._texts, self._rows = [], [], {}, 0
        return stored

    def _store_frames(self) -> int:
        if not self._frames:
            return 0
        columns = {
            name: np.concatenate([frame[name] for frame in self._frames])
            for name in self._frames[0]
        }
        texts = {
            "code": np.arange(len(self._texts), dtype=np.int32),
            "text": np.array(list(self._texts), dtype=object),
        }
        self._connection.register("texts", texts)
        kind_of = columns.pop("kind")
        for kind, insert in _INSERTS.items():
            chosen = kind_of == kind
            if chosen.any():
                self._connection.register("frame", {k: v[chosen] for k, v in columns.items()})
                self._connection.execute(insert)
                self._connection.unregister("frame")
        self._connection.unregister("texts")
        return len(kind_of)

    def _store_move(self, run_id: str, batch: Batch) -> None:
        process = self._processes.get((run_id, batch.process))
        if batch.identity is not None:
            self._store_process(run_id, batch)
        self._connection.execute(
            "INSERT OR REPLACE INTO raw.segment VALUES (?, ?, ?, ?, ?, ?)",
            [
                run_id,
                batch.segment,
                process,
                batch.position.offset,
                batch.position.finished,
                batch.dropped,
            ],
        )
        for damage in batch.damage:
            self._connection.execute(
                "INSERT INTO raw.damage VALUES (?, ?, ?, ?)",
                [run_id, batch.segment, damage.position, damage.what],
            )

    def _store_process(self, run_id: str, batch: Batch) -> None:
        who = batch.identity
        assert who is not None
        self._connection.execute(
            "INSERT OR IGNORE INTO raw.process VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                self._processes[run_id, batch.process],
                batch.process,
                run_id,
                who.role,
                who.rank,
                who.world_size,
                who.host,
                batch.boot_id,
                batch.pid,
                json.dumps(who.coordinates),
            ],
        )
        anchor = (run_id, who.host, batch.boot_id)
        self._connection.execute(
            "INSERT INTO raw.anchor SELECT $1, $2, $3, $4 WHERE NOT EXISTS "
            "(FROM raw.anchor WHERE run_id = $1 AND host = $2 AND boot_id = $3)",
            [*anchor, self._anchors[anchor]],
        )

    def _store_manifests(self, runs: list[RunDirectory]) -> None:
        known = dict(self._rows_of("SELECT run_id, (status, ended_ns) FROM raw.run"))
        for run in runs:
            manifest = run.manifest
            if known.get(run.run_id) == (manifest.status, manifest.ended_ns):
                continue
            row = asdict(manifest)
            del row["boot_id"]
            row |= {key: json.dumps(row[key]) for key in ("command", "config")}
            self._connection.execute(_INSERT_RUN, row)


def _look_up(codes: NDArray[np.int32], identifiers: NDArray[Any]) -> NDArray[np.int32]:
    known = identifiers < len(codes)
    return np.where(known, codes[np.where(known, identifiers, 0)], _NO_TEXT).astype(np.int32)
