"""``opsuite query``: SQL over everything recorded."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collectors.errors import StorageError, UsageError
from opsuite.formats import Format
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.query.source import Source

_EXAMPLE = 'opsuite query "SELECT run_id, status, steps FROM runs"'
_HEATMAP = re.compile(r"\bheatmap\s*\(\s*'([^']+)'\s*,", re.IGNORECASE)
_FOR_PEOPLE = (Format.TABLE, Format.MD)


def query(
    sql: Annotated[
        str, typer.Argument(metavar="[SQL]", help="One SELECT; `-` or none: from stdin.")
    ] = "-",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the SELECT from this file.")
    ] = None,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="How to print; by default as the output's name ends."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file, whole or not at all.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Most rows to print; 0: all.")] = 1000,
) -> None:
    """Ask the views of all runs one SELECT, while they run and afterwards.

    "SHOW TABLES" lists the views, "DESCRIBE steps" the columns of one; there are functions too,
    such as "FROM stragglers('last')": see docs/schema.md.
    """
    from collectors.daemon.access import open_store
    from collectors.settings import Settings
    from opsuite.formats import render

    chosen = _format(form, json, output)
    _check_place(output)
    text = _read_sql(sql, file)
    with open_store(Settings.from_environment().home) as store:
        answer = store.query(text, limit or None)
        empty = _about_nothing(store, text) if not answer.total and chosen in _FOR_PEOPLE else ""
    _write(render(answer.table, chosen), output)
    if answer.truncated:
        narrate(f"{answer.table.num_rows} of {answer.total} rows; --limit 0 prints all")
    if empty:
        narrate(empty)


def _about_nothing(store: Source, sql: str) -> str:
    """That there are no rows; of a heat map, which phases it could show."""
    if (asked := _HEATMAP.search(sql)) is None:
        return "no rows"
    names = store.rows(
        "SELECT DISTINCT name FROM raw.span WHERE run_id = training_named(?) AND step >= 0"
        " ORDER BY name",
        [asked[1]],
    )
    return f"no rows; phases of that run: {', '.join(name for (name,) in names) or 'none'}"


def _format(form: Format | None, json: bool, output: Path | None) -> Format:
    chosen = Format.JSON if json else form or _guessed(output)
    if chosen is Format.PARQUET and output is None and sys.stdout.isatty():
        raise UsageError(
            "Parquet is not for a terminal",
            where="--format",
            remedy="add --output FILE, or send stdout elsewhere",
        )
    return chosen


def _guessed(output: Path | None) -> Format:
    ending = output.suffix.removeprefix(".").lower() if output else ""
    if not ending:
        return Format.TABLE
    if ending not in list(Format):
        raise UsageError(
            f"no format is named {ending}",
            where=f"--output {output}",
            remedy=f"end it in one of .{', .'.join(Format)}, or add --format",
        )
    return Format(ending)


def _check_place(output: Path | None) -> None:
    """Before the question is asked, which may take long."""
    if output is None:
        return
    if output.is_dir():
        raise UsageError("it is a folder", where=f"--output {output}", remedy="name a file in it")
    if not output.parent.is_dir():
        raise UsageError(
            f"there is no folder {output.parent}",
            where=f"--output {output}",
            remedy=f"make it (mkdir -p {output.parent}), or name another file",
        )


def _read_sql(argument: str, file: Path | None) -> str:
    if file is not None and argument != "-":
        raise UsageError("there is SQL, and a file of it", where="the arguments", remedy="give one")
    if file is None and argument != "-":
        return argument
    if file is None and sys.stdin.isatty():
        raise UsageError("there is no SQL", where="the arguments", remedy=f"type {_EXAMPLE}")
    try:
        return sys.stdin.read() if file is None else file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            "the SQL is not UTF-8 text", where=str(file or "stdin"), remedy=f"type {_EXAMPLE}"
        ) from error
    except OSError as error:
        raise UsageError(
            f"the SQL cannot be read: {error.strerror}", where=str(file), remedy="name another file"
        ) from error


def _write(pieces: Iterator[bytes], output: Path | None) -> None:
    if output is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    from collectors.atomic import write_atomically

    try:
        write_atomically(output, b"".join(pieces))
    except OSError as error:
        error.filename = str(output)  # not its draft
        raise StorageError.from_os_error(error, f"writing {output}") from error
