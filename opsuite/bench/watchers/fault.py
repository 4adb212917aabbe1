"""What a trainer says of its own deadlock, just before it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opsuite.bench.watchers.job import Line

_MARK = "FAULT "


@dataclass(frozen=True, kw_only=True)
class Fault:
    """The first deadlock that was entered.

    Attributes:
        at_s: monotonic seconds.
        lines: of the trainer's own code, the innermost first, as ``faults.py:70``.
    """

    rank: int
    at_s: float
    lines: tuple[str, ...]


def find_fault(lines: Sequence[Line]) -> Fault | None:
    """The fault that was told in these lines."""
    for line in lines:
        _, mark, told = line.text.partition(_MARK)
        if mark:
            data = json.loads(told)
            return Fault(rank=data["rank"], at_s=data["at"], lines=tuple(data["lines"]))
    return None
