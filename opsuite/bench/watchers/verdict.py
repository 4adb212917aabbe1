"""What was said of a job: the verdict that it printed, and the findings that it left behind."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from collectors.daemon.access import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from opsuite.bench.watchers.fault import Fault
    from opsuite.bench.watchers.job import Line

_BEGINS = "has stopped stepping"
_ENDS = "bundle: "
_FINDINGS = "SELECT attributes FROM events WHERE name = 'finding'"


@dataclass(frozen=True, kw_only=True)
class Said:
    """A verdict as it was printed.

    Attributes:
        at_s: when its last line came (monotonic).
        lines: the headline, who never came, where each of them is, and the evidence.
    """

    at_s: float
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return " | ".join(line.partition("opsuite: ")[2] or line for line in self.lines)


def find_verdict(lines: Sequence[Line]) -> Said | None:
    """The first verdict that was printed; None: there is none, or not all yet."""
    begun: list[Line] = []
    for line in lines:
        if begun or _BEGINS in line.text:
            begun.append(line)
            if _ENDS in line.text:
                return Said(at_s=line.at_s, lines=tuple(each.text for each in begun))
    return None


def names_rank(lines: Iterable[str], rank: int) -> bool:
    """Whether that rank, and no other, is said to hold the others up."""
    accusing = [line for line in lines if re.search(r"\branks? [\d,-]+ on ", line)]
    return bool(accusing) and all(f"rank {rank} on " in line for line in accusing)


def names_line(lines: Iterable[str], fault: Fault) -> bool:
    """Whether the innermost line of the fault is told, of its rank."""
    line = re.compile(rf"\brank {fault.rank}\b.* at {re.escape(fault.lines[0])}\b")
    return any(line.search(each) for each in lines)


def stored_findings(home: Path) -> list[dict[str, Any]]:
    """Of all runs of a home."""
    with open_store(home) as store:
        return [json.loads(text) for (text,) in store.rows(_FINDINGS)]
