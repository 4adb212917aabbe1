"""Faults that a job must survive: real ones, or thousands of simulated seeds (``--simulated``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsuite.bench.options import BenchOptions

if TYPE_CHECKING:
    from opsuite.bench.result import Row


def measure(rounds: int, options: BenchOptions | None = None) -> list[Row]:
    """Each class of faults ``rounds`` times in a live job; or simulated ones, each seed once."""
    options = options or BenchOptions()
    if not options.simulated:
        from opsuite.bench.drilling.live import measure_live

        return measure_live(rounds)
    from opsuite.bench.drilling.simulated import measure as measure_simulated

    return measure_simulated(options.seeds)
