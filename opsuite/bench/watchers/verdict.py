"""What was said of a job: the verdict that it printed, and the findings that it left behind."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from collectors.query.direct import open_direct
from collectors.run import list_runs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from opsuite.bench.watchers.fault import Fault
    from opsuite.bench.watchers.job import Line

_BEGINS = re.compile(r"never came|did not come|\bhangs?\b", re.IGNORECASE)
_ENDS = re.compile(r"\bbundle\b", re.IGNORECASE)
_FINDINGS = "SELECT attributes FROM events WHERE run_id = $1 AND name = 'finding'"


@dataclass(frozen=True, kw_only=True)
class Said:
    """A verdict as it was printed.

    Attributes:
        at_s: when its last line came (monotonic).
    """

    at_s: float
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return " | ".join(self.lines)

    def names(self, fault: Fault) -> bool:
        """Whether the rank and the line of the fault are in it."""
        rank = re.search(rf"\brank {fault.rank}\b", self.lines[0])
        return bool(rank) and fault.lines[0] in str(self)


def find_verdict(lines: Sequence[Line], after_s: float = 0.0) -> Said | None:
    """The first verdict that was printed later than that; None: there is none, or not all yet."""
    begun: list[Line] = []
    for line in lines:
        if line.at_s < after_s:
            continue
        if begun or _BEGINS.search(line.text):
            begun.append(line)
            if _ENDS.search(line.text):
                return Said(at_s=line.at_s, lines=tuple(each.text for each in begun))
    return None


def stored_findings(home: Path) -> list[dict[str, Any]]:
    """Of all runs of a home."""
    found: list[dict[str, Any]] = []
    for run in list_runs(home):
        with open_direct(home) as store:
            rows = store.rows(_FINDINGS, [run.run_id])
        found += [json.loads(text) for (text,) in rows]
    return found
