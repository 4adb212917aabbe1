"""Small stores written row by row, sealed or hot, and readers over them."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from collectors.query.readers import ReaderPool
from collectors.query.session import Session
from collectors.store.frames import process_id
from collectors.store.parquet import write_parquet
from collectors.store.snapshot import Snapshot, Sources
from collectors.store.tables import BULK, SMALL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

T0 = 1_700_000_000_000_000_000
MS = 1_000_000


class SmallStore:
    """Rows that wait to be sealed or kept hot, and the files of those that are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parquet = path / "parquet"
        self.parquet.mkdir()
        self._numbers = itertools.count(1)
        self._small: dict[str, list[dict[str, Any]]] = {name: [] for name in SMALL}
        self._pending: dict[str, list[dict[str, Any]]] = {name: [] for name in BULK}
        self._files: dict[str, dict[str, list[str]]] = {
            name: {"parquet": [], "hot": []} for name in BULK
        }
        self.run_ids: list[str] = []

    def run(self, run_id: str, **fields: Any) -> None:
        """A run, newer than those before."""
        self.run_ids.insert(0, run_id)
        row = dict.fromkeys(SMALL["run"].schema.names)
        facts = {"run_id": run_id, "kind": "training", "status": "running", "started_ns": T0}
        self._small["run"].append(row | facts | fields)

    def process(self, rank: int | None, run_id: str | None = None, **fields: Any) -> int:
        """A process of the newest run; the number of its rows."""
        run_id = run_id or self.run_ids[0]
        key = f"process-{next(self._numbers)}"
        number = process_id(run_id, key)
        row = {
            **{"run_id": run_id, "process": number, "key": key, "rank": rank, "world_size": 2},
            **{"role": "server" if rank is None else "trainer", "host": "alpha", "boot_id": "a"},
            **{"pid": 100, "coordinates": json.dumps({} if rank is None else {"tp": rank})},
            **{"opened_ns": T0, "dropped": 0, "clock_offset_ns": 0, "clock_drift": 0.0},
            **{"clock_at_ns": T0, "clock_error_ns": 0},
        }
        self._small["process"].append(row | fields)
        return number

    def add(self, table: str, process: int, **fields: Any) -> None:
        """A row; ``start`` and ``end`` are ms after T0."""
        [run_id] = [p["run_id"] for p in self._small["process"] if p["process"] == process]
        row = {"run_id": run_id, "process": process, "step": -1, "subject": -1, "at_ns": T0}
        for ours, stored in (("start", "start_ns"), ("end", "end_ns"), ("at", "at_ns")):
            if ours in fields:
                row[stored] = T0 + round(fields.pop(ours) * MS)
        names = BULK[table].schema.names
        self._pending[table].append({k: v for k, v in (row | fields).items() if k in names})

    def span(self, process: int, name: str, step: int, start: float, end: float) -> None:
        self.add("span", process, name=name, step=step, start=start, end=end)

    def reduce(self, process: int, step: int, start: float, end: float, **fields: Any) -> None:
        """Its part in an all-reduce of two ranks."""
        row = {"name": "all_reduce", "group": "tp[0,1]", "group_size": 2, "sequence": step}
        self.add(
            "collective",
            process,
            **({**row, "size_bytes": 8, "step": step, "start": start, "end": end} | fields),
        )

    def event(self, process: int, name: str, at: float, **fields: Any) -> None:
        attributes = fields.pop("attributes", None)
        text = None if attributes is None else json.dumps(attributes)
        self.add("event", process, name=name, at=at, attributes=text, **fields)

    def seal(self) -> None:
        """Write what waits to Parquet files, one for each run."""
        for name, table, run_id in self._taken():
            seal_id = f"{T0 + next(self._numbers)}-test"
            file = write_parquet(self.parquet, name, [table], run_id=run_id, seal_id=seal_id)
            self._files[name]["parquet"].append(str(self.parquet / file.path))

    def heat(self) -> None:
        """Write what waits to hot files."""
        for name, table, _ in self._taken():
            self._files[name]["hot"].append(self._write_arrow(name, table))

    def _taken(self) -> Iterator[tuple[str, pa.Table, str]]:
        for name, rows in self._pending.items():
            for run_id in dict.fromkeys(row["run_id"] for row in rows):
                mine = [row for row in rows if row["run_id"] == run_id]
                yield name, pa.Table.from_pylist(mine, schema=BULK[name].schema), run_id
            rows.clear()

    def _write_arrow(self, name: str, table: pa.Table) -> str:
        path = self.path / f"{next(self._numbers)}-{name}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        return str(path)

    def snapshot(self) -> Snapshot:
        """All there is by now; what waits becomes hot."""
        self.heat()
        tables = {
            name: Sources(parquet=tuple(files["parquet"]), hot=tuple(files["hot"]))
            for name, files in self._files.items()
        }
        for name, rows in self._small.items():
            table = pa.Table.from_pylist(rows, schema=SMALL[name].schema)
            tables[name] = Sources(hot=(self._write_arrow(name, table),))
        return Snapshot(
            version=next(self._numbers),
            parquet=str(self.parquet),
            run_ids=tuple(self.run_ids),
            tables=tables,
        )


@pytest.fixture(scope="session")
def new_store() -> type[SmallStore]:
    """Makes empty stores in directories."""
    return SmallStore


@pytest.fixture
def small(tmp_path: Path) -> SmallStore:
    """An empty store."""
    return SmallStore(tmp_path)


@pytest.fixture
def session() -> Iterator[Session]:
    """A session that was shown nothing yet."""
    with Session() as opened:
        yield opened


@pytest.fixture
def pool() -> Iterator[ReaderPool]:
    """One reader, with little time and memory."""
    opened = ReaderPool(size=1, wall_limit_s=2.0, memory_bytes=512 << 20)
    yield opened
    opened.close()
