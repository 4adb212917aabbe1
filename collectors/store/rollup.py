"""Roll-ups: what a second held, by process and name.

When the single rows expire their sums stay, by minute.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from collectors.store.tables import ROLLUP

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SQL = """
    SELECT process, code, {time} // 1000000000 AS second, count(*) AS count,
           sum({amount}) AS total, min({amount}) AS least, max({amount}) AS most
    FROM recorded GROUP BY process, code, second ORDER BY process, code, second
"""
_COARSE = """
    SELECT run_id, process, kind, name, second // 60 * 60 AS second, sum(count) AS count,
           sum(total) AS total, min(least) AS least, max(most) AS most
    FROM rollup GROUP BY ALL ORDER BY process, kind, name, second
"""
_SECONDS = "(end_ns - start_ns) / 1e9"
_ROLLED = {
    "span": _SQL.format(time="start_ns", amount=_SECONDS),
    "collective": _SQL.format(time="start_ns", amount=_SECONDS),
    "sample": _SQL.format(time="at_ns", amount="value"),
    "event": _SQL.format(time="at_ns", amount="value"),
}


def rollup(tables: Mapping[str, pa.Table]) -> pa.Table:
    """Counts and sums by process, name and second: of durations (s), of values, or mere counts."""
    with closing(duckdb.connect(config={"threads": "1"})) as connection:
        parts = [_rolled(connection, kind, table) for kind, table in tables.items()]
        return pa.concat_tables(parts) if parts else ROLLUP.schema.empty_table()


def coarsen(tables: Iterable[pa.Table]) -> pa.Table:
    """The same sums by minute: a sixtieth of the rows."""
    with closing(duckdb.connect(config={"threads": "1"})) as connection:
        parts = [table.unify_dictionaries() for table in tables]
        connection.register("rollup", pa.concat_tables([ROLLUP.schema.empty_table(), *parts]))
        return pa.table(connection.sql(_COARSE).to_arrow_table()).cast(ROLLUP.schema)


def _rolled(connection: duckdb.DuckDBPyConnection, kind: str, table: pa.Table) -> pa.Table:
    """One kind's sums; grouped by the codes of names, which takes half of what texts take."""
    names = table["name"].unify_dictionaries().combine_chunks()
    connection.register("recorded", table.append_column("code", names.indices))
    sums = pa.table(connection.sql(_ROLLED[kind]).to_arrow_table())
    codes = sums["code"].combine_chunks()
    columns = {
        "run_id": pa.repeat(table["run_id"][0].as_py(), len(sums)),
        "process": sums["process"],
        "kind": pa.repeat(kind, len(sums)),
        "name": pa.DictionaryArray.from_arrays(codes, names.dictionary),
        **{name: sums[name] for name in ("second", "count", "total", "least", "most")},
    }
    return pa.table(columns).cast(ROLLUP.schema)
