"""Faults that a job must survive: thousands of simulated seeds (``--simulated``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.errors import UsageError
from opsuite.bench.options import BenchOptions

if TYPE_CHECKING:
    from opsuite.bench.result import Row


def measure(rounds: int, options: BenchOptions | None = None) -> list[Row]:
    """Of a simulated job, each seed once.

    Raises:
        UsageError: live drills were asked for.
    """
    options = options or BenchOptions()
    if not options.simulated:
        raise UsageError("there are no live drills yet", remedy="add --simulated")
    from opsuite.bench.drilling.simulated import measure as measure_simulated

    return measure_simulated(options.seeds)
