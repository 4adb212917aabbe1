"""``opsuite query``: SQL over everything recorded."""

from __future__ import annotations

import math
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collectors.errors import UsageError
from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from collectors.store import Table

_EXAMPLE = 'opsuite query "SELECT run_id, status, steps FROM runs"'


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def query(
    sql: Annotated[
        str, typer.Argument(metavar="[SQL]", help="One SELECT; `-` or none: from stdin.")
    ] = "-",
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="Most rows to print; 0: all.")] = 1000,
) -> None:
    """Ask the views of all runs one SELECT.

    "SHOW TABLES" lists the views, and "DESCRIBE steps" the columns of one.
    """
    from collectors.settings import Settings
    from collectors.store import Store

    text = _read_sql(sql)
    with Store.open(Settings.from_environment().home) as store:
        table = store.query(text, limit or None)
    _print(table, Format.JSON if json else output)
    if table.truncated:
        narrate(f"{len(table.rows)} of {table.total} rows; --limit 0 prints all")


def _read_sql(argument: str) -> str:
    if argument != "-":
        return argument
    if sys.stdin.isatty():
        raise UsageError("there is no SQL", where="the arguments", remedy=f"type {_EXAMPLE}")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UsageError(
            "the SQL is not UTF-8 text", where="stdin", remedy=f"type {_EXAMPLE}"
        ) from error


def _print(table: Table, output: Format) -> None:
    if output is Format.JSON:
        names = table.columns
        rows = [dict(zip(names, map(_json_value, row), strict=True)) for row in table.rows]
        print_json(rows)
    elif output is Format.CSV:
        print_data(_csv(table))
    else:
        from tui.table import render_table

        print_data(render_table(table.columns, table.rows))


def _csv(table: Table) -> str:
    import csv
    from io import StringIO

    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return text.getvalue()


def _json_value(value: Any) -> Any:  # noqa: ANN401 - any SQL value
    """A value as JSON knows it; NaN, infinities and NULL are null."""
    from datetime import date, datetime
    from decimal import Decimal

    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    if isinstance(value, dict):
        return {str(key): _json_value(inner) for key, inner in value.items()}
    return value.isoformat() if isinstance(value, date | datetime) else str(value)
