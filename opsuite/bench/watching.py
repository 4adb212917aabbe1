"""Trainers that know nothing of opsuite: who is named, how soon, how seldom wrongly, at what cost.

What is slow or hangs does so by the trainers' own arguments (``tests/trainers``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError
from opsuite.bench.result import Row
from opsuite.bench.watchers import daemon_cpu, hangs, innocents, naming, odd, overhead
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Callable


def measure(rounds: int) -> list[Row]:
    """All parts, one after another: ``rounds`` runs of each kind that is named."""
    parts: dict[str, Callable[[], list[Row]]] = {
        "overhead": lambda: overhead.measure(6 * rounds),
        "daemons": daemon_cpu.measure,
        "odd": odd.measure,
        "hangs": lambda: hangs.measure(2 * rounds),
        "innocents": lambda: innocents.measure(2 * rounds),
        "naming": lambda: naming.measure(rounds),
    }
    rows: list[Row] = []
    for name, part in parts.items():
        narrate(f"{name} ...")
        try:
            rows += part()
        except OpsuiteError as error:  # one part that fails does not take the others with it
            rows.append(Row(name=name, value=None, unit="", rounds=0, met=False, note=str(error)))
    return rows
