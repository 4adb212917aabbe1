"""SQL of users: it reads the views and nothing else, not even files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from collectors.errors import UsageError
from collectors.store.views import VIEWS

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 10_000
_ALLOWED = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "lock_configuration": "true",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """The answer to a query.

    Attributes:
        columns: their names, each once.
        rows: the first ones, up to the limit.
        total: how many rows there are in all.
    """

    columns: list[str]
    rows: list[tuple[Any, ...]]
    total: int

    @property
    def truncated(self) -> bool:
        """Whether there are more rows than these."""
        return self.total > len(self.rows)


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Open the store's file for reading, with everything else locked away."""
    return duckdb.connect(str(path), read_only=True, config=_LOCKED)


def run_query(connection: duckdb.DuckDBPyConnection, sql: str, limit: int | None) -> Table:
    """Run one SELECT or EXPLAIN and take its first ``limit`` rows (None: all).

    Raises:
        UsageError: the SQL is wrong, or something else than one such statement.
    """
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1 or statements[0].type not in _ALLOWED:
            raise _refusal("only one statement, a SELECT or EXPLAIN, is run here")
        answer = connection.execute(statements[0])
        description = answer.description or []
        if zoned := [name for name, kind, *_ in description if "TIME ZONE" in str(kind)]:
            raise _refusal(f"column {zoned[0]!r} has a time zone: cast it to TIMESTAMP or VARCHAR")
        columns = _distinct([column[0] for column in description])
        rows = answer.fetchall() if limit is None else answer.fetchmany(limit)
        total = len(rows)
        while chunk := answer.fetchmany(_CHUNK):
            total += len(chunk)
    except duckdb.Error as error:
        raise _refusal(str(error)) from error
    return Table(columns=columns, rows=rows, total=total)


def _distinct(names: list[str]) -> list[str]:
    """Number the repetitions, so that a row can be an object: a, a_1, a_2."""
    distinct: list[str] = []
    for name in names:
        candidate, repetition = name, 0
        while candidate in distinct:
            repetition += 1
            candidate = f"{name}_{repetition}"
        distinct.append(candidate)
    return distinct


def _refusal(what: str) -> UsageError:
    names = ", ".join(view.name for view in VIEWS)
    return UsageError(what, where="the SQL", remedy=f"SELECT from the views: {names}")
