"""The table of classes in ``docs/faults.md``, made of the classes themselves.

``python -m engine.faults.reference docs/faults.md`` brings the file up to date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engine.faults.grammar import spelling
from engine.faults.registry import FAULTS

if TYPE_CHECKING:
    from engine.faults.grammar import Fault

_TABLES = re.compile(r"(<!-- faults: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fault_table(struck: str) -> str:
    """The classes struck by "rank" or "outside", as Markdown."""
    rows = [_row(fault) for fault in FAULTS.values() if fault.struck == struck]
    return "\n".join(
        ["| Class | What it does | Keys | Needs |", "| --- | --- | --- | --- |", *rows]
    )


def up_to_date(document: str) -> str:
    """The document with its tables made anew."""
    return _TABLES.sub(lambda match: f"{match[1]}\n{fault_table(match[2])}\n\n{match[3]}", document)


def _row(fault: type[Fault]) -> str:
    does = (fault.__doc__ or "").strip().splitlines()[0]
    keys = "<br>".join(f"`{key.name}`: {key.meaning}" for key in fault.all_keys())
    return f"| `{spelling(fault)}` | {does} | {keys} | {fault.needs or 'nothing'} |"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(up_to_date(path.read_text(encoding="utf-8")), encoding="utf-8")
