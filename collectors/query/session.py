"""A locked DuckDB in memory that answers SELECTs over one snapshot of the store."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

import duckdb
import pyarrow as pa

from collectors.errors import DataError, OpsuiteError, Unreachable, UsageError
from collectors.query.macros import KINDS, create_macros
from collectors.query.relations import (
    create_inner_views,
    create_relation,
    hot_name,
)
from collectors.query.sandbox import lock, only_select, refusal
from collectors.query.source import Answer
from collectors.query.views import create_views
from collectors.store.snapshot import Snapshot, Sources
from collectors.store.tables import BULK, SMALL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from collectors.store.tables import StoredTable

_BATCH_ROWS = 16_384
_NOTHING = Sources()
_DAMAGE = re.compile("(IO|Invalid Input|Invalid|Serialization) Error")
_MISSING = re.compile(r"IO Error.*(no such file|no files found|cannot open file)", re.I | re.S)


class Session:
    """Answers SQL over the snapshot that it was shown last. For one thread at a time.

    Args:
        memory_bytes: the most that DuckDB takes for a query.
        threads: how many compute it.
    """

    def __init__(self, *, memory_bytes: int = 1 << 30, threads: int = 2) -> None:
        self._connection = duckdb.connect(
            config={"memory_limit": f"{memory_bytes}B", "threads": threads}
        )
        self._parquet: str | None = None
        self._shown: Snapshot | None = None
        self._clocked: bool | None = None
        self._hot: dict[str, pa.Table] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free its memory and its files."""
        self._connection.close()
        self._hot.clear()

    # -- what is asked about ----------------------------------------------------------------------

    def show(self, snapshot: Snapshot) -> None:
        """Answer from ``snapshot`` from now on; its directory must always be the same.

        Raises:
            Unreachable: a file of it is gone: it was superseded long ago.
        """
        shown = self._shown
        if shown is not None and snapshot.version == shown.version:
            return
        self._open(snapshot.parquet)
        self._shown = None  # should this fail half-way, the next one does all of it
        try:
            self._map({path for one in snapshot.tables.values() for path in one.hot})
            for table in SMALL.values():
                self._fill(table, snapshot, shown)
            for table in BULK.values():
                self._relate(table, snapshot, shown)
            self._name(snapshot.run_ids)
            self._align()
        except duckdb.Error as error:
            raise self._explain(error, ours=True) from error
        self._shown = snapshot

    def _open(self, parquet: str) -> None:
        if self._parquet is None:
            lock(self._connection, [parquet])
            self._connection.execute("CREATE SCHEMA raw")
            self._parquet = parquet
        assert parquet == self._parquet, "what is locked is one store's directory"

    def _map(self, paths: set[str]) -> None:
        """Map the hot files that are new, and let those go that are not asked for."""
        self._hot = {path: table for path, table in self._hot.items() if path in paths}
        for path in paths - self._hot.keys():
            try:
                with pa.memory_map(path) as source:
                    self._hot[path] = pa.ipc.open_file(source).read_all()
            except FileNotFoundError as error:
                raise _gone(path) from error
            except (OSError, pa.ArrowInvalid) as error:
                raise DataError(f"a hot file cannot be read: {error}", where=path) from error

    def _rows_of(self, table: StoredTable, paths: Sequence[str]) -> pa.Table:
        parts = [self._hot[path] for path in paths]
        return pa.concat_tables(parts) if parts else table.schema.empty_table()

    def _fill(self, table: StoredTable, snapshot: Snapshot, shown: Snapshot | None) -> None:
        """Copy a small table, so that the planner knows its size."""
        paths = snapshot.tables.get(table.name, _NOTHING).hot
        if shown is not None and paths == shown.tables.get(table.name, _NOTHING).hot:
            return
        self._connection.register("rows_of_small", self._rows_of(table, paths))
        self._connection.execute(f"CREATE OR REPLACE TABLE raw.{table.name} AS FROM rows_of_small")
        self._connection.unregister("rows_of_small")

    def _relate(self, table: StoredTable, snapshot: Snapshot, shown: Snapshot | None) -> None:
        sources = snapshot.tables.get(table.name, _NOTHING)
        before = None if shown is None else shown.tables.get(table.name, _NOTHING)
        if before is None or sources.hot != before.hot:
            self._connection.register(hot_name(table), self._rows_of(table, sources.hot))
        if before is None or sources.parquet != before.parquet:
            self._connection.execute(create_relation(table, sources.parquet))

    def _name(self, run_ids: Sequence[str]) -> None:
        """Set what the macros find runs by; variables are constants to the planner."""
        self._connection.execute("SET VARIABLE run_ids = ?", [list(run_ids)])
        kinds = dict(self._connection.execute("SELECT run_id, kind FROM raw.run").fetchall())
        for kind in KINDS:
            last = next((run_id for run_id in run_ids if kinds.get(run_id) == kind), None)
            self._connection.execute(f"SET VARIABLE last_{kind} = ?::VARCHAR", [last])

    def _align(self) -> None:
        """Make the views, once, and again where the first clock is to be corrected."""
        [(clocked,)] = self._connection.execute(
            "SELECT coalesce(bool_or(clock_offset_ns <> 0 OR clock_drift <> 0), false)"
            " FROM raw.process"
        ).fetchall()
        if clocked != self._clocked:
            self._connection.execute(create_inner_views(clocked=clocked))
            self._connection.execute(create_views())
            self._connection.execute(create_macros())
            self._clocked = clocked

    # -- asking -----------------------------------------------------------------------------------

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query of ours."""
        return self._run(sql, parameters).fetchall()

    def arrays(self, sql: str, parameters: Sequence[Any] = ()) -> dict[str, NDArray[Any]]:
        """The columns of a query of ours; one with NULLs is a masked array."""
        return self._run(sql, parameters).fetchnumpy()

    def _run(self, sql: str, parameters: Sequence[Any]) -> duckdb.DuckDBPyConnection:
        try:
            return self._connection.execute(sql, list(parameters))
        except duckdb.Error as error:
            raise self._explain(error) from error

    def query(self, sql: str, limit: int | None = None) -> Answer:
        """One SELECT of a user, its first rows; UsageError where it is wrong or another thing."""
        *batches, total = self.stream(sql, limit=limit)
        assert isinstance(total, int)
        return Answer(table=pa.Table.from_batches(batches), total=total)

    def stream(
        self, sql: str, parameters: Sequence[Any] = (), limit: int | None = None
    ) -> Iterator[pa.RecordBatch | int]:
        """The first ``limit`` rows of one SELECT (None: all), at least one batch; then the total.

        Raises:
            UsageError: the SQL is wrong, another thing than one SELECT, or asks for too much.
            Unreachable: a file of the snapshot is gone.
        """
        try:
            statement = only_select(self._connection, sql)
            relation = self._connection.sql(statement, params=list(parameters))
            reader = relation.to_arrow_reader(_BATCH_ROWS)
        except (duckdb.Error, MemoryError) as error:
            raise self._explain(error) from error
        try:
            yield from _first(reader, limit)
        except (duckdb.Error, pa.ArrowException, OSError, MemoryError) as error:
            raise self._explain(error) from error
        finally:
            reader.close()

    def _explain(self, error: Exception, *, ours: bool = False) -> OpsuiteError:
        """An error of DuckDB, or of Arrow with DuckDB's text, as one of ours."""
        text = str(error)
        if isinstance(error, MemoryError) or "Out of Memory Error" in text:
            return too_much_memory()
        if _MISSING.search(text):
            return _gone(text)
        named = self._parquet is not None and self._parquet in text
        if ours or (named and _DAMAGE.match(text) and "schema mismatch" not in text.lower()):
            return DataError(
                f"a sealed file cannot be read: {text}",
                remedy="move it aside, then `opsuite runs rebuild`",
            )
        return refusal(text)


def _first(reader: pa.RecordBatchReader, limit: int | None) -> Iterator[pa.RecordBatch | int]:
    schema = _plain(reader.schema)
    yield pa.RecordBatch.from_pylist([], schema=schema)
    total = 0
    for batch in reader:
        wanted = batch.num_rows if limit is None else max(0, min(batch.num_rows, limit - total))
        total += batch.num_rows
        if wanted:
            columns = [
                column if column.type == kind else column.cast(kind, safe=False)
                for column, kind in zip(batch.slice(0, wanted).columns, schema.types, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
    yield total


def _plain(schema: pa.Schema) -> pa.Schema:
    """With distinct names, so that a row can be an object: a, a_1; and times that Python has."""
    if zoned := [field.name for field in schema if "tz=" in str(field.type)]:
        raise refusal(
            f"column {zoned[0]!r} has a time zone",
            remedy="cast it: column::TIMESTAMP, or column::VARCHAR",
        )
    types = [pa.timestamp("us") if kind == pa.timestamp("ns") else kind for kind in schema.types]
    return pa.schema(list(zip(_distinct(schema.names), types, strict=True)))


def _distinct(names: list[str]) -> list[str]:
    distinct: dict[str, None] = {}
    for name in names:
        candidate, repetition = name, 0
        while candidate in distinct:
            repetition += 1
            candidate = f"{name}_{repetition}"
        distinct[candidate] = None
    return list(distinct)


def too_much_memory() -> UsageError:
    """That a query is too costly."""
    return UsageError(
        "the query needs more memory than it is given",
        where="the SQL",
        remedy="filter by run_id, aggregate, or ask for fewer columns",
    )


def _gone(where: str) -> Unreachable:
    return Unreachable(
        "a file of the store is gone: newer ones have its rows", where=where, remedy="ask again"
    )
