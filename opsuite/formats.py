"""Rows as text and files: the formats that commands print them in."""

from __future__ import annotations

import csv
import json
import math
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

from collectors.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    Rows = Iterable[tuple[Any, ...]]


class Format(StrEnum):
    """How rows are printed: for people (table, md) or for programs.

    NULL is n/a for people, empty in CSV and null in JSON.
    """

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    MD = "md"


def render(table: pa.Table, form: Format) -> Iterator[bytes]:
    """The rows in pieces.

    Raises:
        UsageError: Parquet has no type for a column.
    """
    if form is Format.PARQUET:
        yield _parquet(table)
        return
    names = list(table.column_names)
    writers = {
        Format.TABLE: _table,
        Format.JSON: _json,
        Format.JSONL: _jsonl,
        Format.CSV: _csv,
        Format.MD: _md,
    }
    for text in writers[form](names, _rows(table)):
        yield text.encode()


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    for batch in table.to_batches():
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _table(names: list[str], rows: Rows) -> Iterator[str]:
    from tui.table import render_table

    yield render_table(names, list(rows))


def _json(names: list[str], rows: Rows) -> Iterator[str]:
    before = "["
    for row in rows:
        shown = json.dumps(_object(names, row), indent=2, allow_nan=False)
        yield before + "\n  " + shown.replace("\n", "\n  ")
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


def _jsonl(names: list[str], rows: Rows) -> Iterator[str]:
    for row in rows:
        yield json.dumps(_object(names, row), allow_nan=False) + "\n"


def _csv(names: list[str], rows: Rows) -> Iterator[str]:
    yield _csv_line(names)
    for row in rows:
        yield _csv_line([_csv_value(value) for value in row])


def _csv_line(values: list[Any]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _csv_value(value: Any) -> Any:  # noqa: ANN401 - any SQL value
    nested = isinstance(value, bytes | list | tuple | dict)
    if not nested:
        return value
    plain = json_value(value)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _md(names: list[str], rows: Rows) -> Iterator[str]:
    from tui.table import format_cell

    yield _md_line(names)
    yield _md_line(["---"] * len(names))
    for row in rows:
        yield _md_line([format_cell(value) for value in row])


def _md_line(cells: list[str]) -> str:
    escaped = (cell.replace("\\", "\\\\").replace("|", "\\|") for cell in cells)
    return "| " + " | ".join(" ".join(cell.splitlines()) for cell in escaped) + " |\n"


def _object(names: list[str], row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(names, map(json_value, row), strict=True))


def json_value(value: Any) -> Any:  # noqa: ANN401 - any SQL value
    """A value as JSON knows it; NaN, infinities and NULL are null, bytes are hexadecimal."""
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    if isinstance(value, dict):
        return {str(key): json_value(inner) for key, inner in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, date | datetime) else str(value)


def _parquet(table: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = BytesIO()
    try:
        pq.write_table(table, file, compression="zstd")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise UsageError(
            f"a column cannot be written as Parquet: {error}",
            where="--format",
            remedy="cast it, such as column::VARCHAR, or choose another format",
        ) from error
    return file.getvalue()
