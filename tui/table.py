"""The one way to show a table."""

from __future__ import annotations

import math
import re
import shutil
import sys
from datetime import datetime
from io import StringIO
from numbers import Number
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

MISSING = "n/a"
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_WIDE = 10_000


def render_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, width: int | None = None
) -> str:
    """Plain text, numbers to the right; a missing value is "n/a".

    ``width`` is the terminal's where stdout is one, and unlimited elsewhere. Texts of several words
    are folded to fit; numbers and names are not, so that they can be read and copied: where these
    alone are too wide, the table is. Of a text of several lines there is the first, and how many
    more there are.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, name in enumerate(columns):
        values = [row[index] for row in rows if row[index] is not None]
        numeric = bool(values) and all(isinstance(value, Number) for value in values)
        words = any(isinstance(value, str) and " " in value for value in values)
        table.add_column(
            Text(visible(name)),
            justify="right" if numeric else "left",
            no_wrap=not words,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(_first_line(format_cell(value))) for value in row))
    text = StringIO()
    console = Console(file=text, width=width or _terminal_width(), color_system=None)
    console.width = max(console.width, table.__rich_measure__(console, console.options).minimum)
    console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def format_cell(value: Any) -> str:  # noqa: ANN401 - any value
    """A value as people read it: six significant digits, times to the second."""
    if value is None:
        return MISSING
    if isinstance(value, float):
        return _format_float(value)
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return visible(str(value))


def _first_line(text: str) -> str:
    first, *more = text.strip("\n").split("\n")
    return f"{first} (+{len(more)} lines)" if more else first


def visible(text: str) -> str:
    """A text without power over the terminal: control and direction characters are escaped."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _format_float(value: float) -> str:
    if not math.isfinite(value) or value == 0:
        return str(value)
    return f"{value:.6g}"


def _terminal_width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDE
