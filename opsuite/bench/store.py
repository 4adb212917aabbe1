"""The trace store: nothing lost, nothing twice, quick to answer, cheap to run, hard to hurt.

What is simulated says so in its note.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError
from opsuite.bench.result import Row
from opsuite.bench.tracing import attacks, damage, day, fleet, kills, live, overhead
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Callable


def measure(rounds: int) -> list[Row]:
    """All parts, one after another; ``rounds`` where figures are compared or a median is taken."""
    parts: dict[str, Callable[[], list[Row]]] = {
        "live": live.measure,
        "overhead": lambda: overhead.measure(rounds),
        "kills": kills.measure,
        "damage": damage.measure,
        "attacks": attacks.measure,
        "fleet": lambda: fleet.measure(rounds),
        "day": day.measure,
    }
    rows: list[Row] = []
    for name, part in parts.items():
        narrate(f"{name} ...")
        try:
            rows += part()
        except OpsuiteError as error:  # one part that fails does not take the others with it
            rows.append(Row(name=name, value=None, unit="", rounds=0, met=False, note=str(error)))
    return rows
