"""SQL of users: one SELECT over the views and nothing else, not even files.

This binds what a statement may touch. What it may cost is bound by the process that runs it
(:mod:`collectors.query.reader`): some calls cannot be stopped from inside.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import duckdb

from collectors.errors import UsageError
from collectors.query.macros import MACROS
from collectors.query.relations import quoted
from collectors.query.views import VIEWS

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SQL = 1 << 20
_SELECT, _EXPLAIN = duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN
# The order counts: without external access no directory is named any more.
_LOCKED = (
    "SET temp_directory = ''",
    "SET autoload_known_extensions = false",
    "SET autoinstall_known_extensions = false",
    "SET python_enable_replacements = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_EXPLAINED = re.compile(r"\s*EXPLAIN(\s+ANALYZE)?\s+", re.IGNORECASE)
_WRITES = re.compile(r"copy|insert|update|delete|merge", re.IGNORECASE)
_SHOW_TABLES = re.compile(r"\s*SHOW\s+TABLES\s*;?\s*", re.IGNORECASE)
_EXAMPLE = '"SELECT run_id, status, steps FROM runs"'
_WRONG_CALL = re.compile(r"Macro (\w+)\(\) does not support the supplied arguments")
_UNQUOTED = re.compile(r'was not found because the FROM clause is missing|column "last" ')
_NO_RUN = re.compile(r"no run is named |is the beginning of several runs")
_UNKNOWN = re.compile(r"(with name \S+ does not exist|not found in FROM clause)")
_TABLES = """
    SELECT view_name AS name, comment AS about FROM duckdb_views()
    WHERE schema_name = 'main' AND NOT internal AND NOT temporary ORDER BY name
"""


def lock(connection: duckdb.DuckDBPyConnection, directories: Sequence[str]) -> None:
    """Lock everything away but the files below ``directories``; this cannot be undone."""
    listed = ", ".join(quoted(directory) for directory in directories)
    connection.execute(f"SET allowed_directories = [{listed}]")
    for statement in _LOCKED:
        connection.execute(statement)


def only_select(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The one SELECT, or EXPLAIN of a SELECT, that ``sql`` is.

    Raises:
        UsageError: it is something else.
        duckdb.Error: it is wrong.
    """
    if len(sql) > MAX_SQL:
        raise refusal(f"the SQL is longer than {MAX_SQL} characters", remedy="ask less at once")
    text = _TABLES if _SHOW_TABLES.fullmatch(sql) else sql
    statements = connection.extract_statements(text)
    if not statements:
        raise refusal("there is no SQL", remedy=f"write a SELECT, such as {_EXAMPLE}")
    if len(statements) == 1 and statements[0].type == _EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains, whatever that is.
        explained = _EXPLAINED.match(text)
        allowed = explained is not None and _is_select(connection, text[explained.end() :])
    else:
        allowed = _is_select(connection, text)
    if not allowed:
        raise refusal(
            "only one statement, a SELECT or EXPLAIN, is run here",
            remedy=f"write one SELECT, such as {_EXAMPLE}; `opsuite query --output` writes a file",
        )
    return statements[0]


def _is_select(connection: duckdb.DuckDBPyConnection, sql: str) -> bool:
    """Whether it is one SELECT that writes nothing: WITH x AS (COPY ...) FROM x is one that does.

    DuckDB takes what writes at the top of a statement only, and so not where this puts it.
    """
    if [one.type for one in connection.extract_statements(sql)] != [_SELECT]:
        return False
    if _WRITES.search(sql):
        connection.execute(f"EXPLAIN FROM ({sql.rstrip().removesuffix(';')}\n)").fetchall()
    return True


def refusal(what: str, *, remedy: str = "") -> UsageError:
    """That SQL is not run, and what to do: where it is not given, as the text of DuckDB asks."""
    return UsageError(what, where="the SQL", remedy=remedy or _advice(what))


def _advice(what: str) -> str:
    if called := _WRONG_CALL.search(what):
        for macro in MACROS:
            if macro.name == called[1]:
                return f"call it as {macro.call}, such as {macro.name}({macro.example})"
    if _UNQUOTED.search(what):
        return "put texts into single quotes, such as 'last'; columns need a FROM"
    if _NO_RUN.search(what):
        return "name a run by its id or a beginning of it: see SELECT run_id, kind FROM runs"
    if _UNKNOWN.search(what):
        return "SELECT from the views: " + ", ".join(view.name for view in VIEWS)
    return "correct the SQL; docs/schema.md has examples"
