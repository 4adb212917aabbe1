"""A server under load while clients leave and its engine is killed: live, or many simulated seeds
(``--simulated``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsuite.bench.options import BenchOptions

if TYPE_CHECKING:
    from opsuite.bench.result import Row


def measure(rounds: int, options: BenchOptions | None = None) -> list[Row]:
    """``rounds`` minutes of a live server, or simulated seeds."""
    options = options or BenchOptions()
    if options.simulated:
        from opsuite.bench.serving.chaos_simulated import measure_simulated

        return measure_simulated(options.seeds)
    from opsuite.bench.serving.chaos_live import measure_live

    return measure_live(rounds)
