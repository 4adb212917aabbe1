"""Many seeds of a simulated server where all goes wrong (:mod:`engine.simulation.serving_world`).

A seed counts as broken if a client was given a wrong token, one twice or none; if keys and values
were another request's; or if anything of a request was left when all had ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsuite.bench.result import Row
from opsuite.bench.seeds import broken_row, fault_rows
from opsuite.output import narrate

if TYPE_CHECKING:
    from engine.simulation.serving_world.campaign import Tally

LEAST_H = 2.0
_TOLD_EVERY = 100


def measure_simulated(seeds: int) -> list[Row]:
    """Run them."""
    from engine.simulation.serving_world.campaign import Tally, run_campaign

    narrate(f"{seeds:,} seeds of a simulated server")
    tally = Tally()
    for tally in run_campaign(seeds):
        if tally.seeds % _TOLD_EVERY == 0:
            narrate(f"{tally.seeds:,} seeds, {len(tally.broken)} broken")
    return [*_rows(tally), *fault_rows(tally.faults, tally.seeds)]


def _rows(tally: Tally) -> list[Row]:
    hours, seeds = tally.simulated_s / 3600, tally.seeds
    ends = ", ".join(f"{count:,} {end}" for end, count in tally.ends.most_common())
    return [
        Row(
            name="simulated time",
            value=hours,
            unit="h",
            rounds=seeds,
            target=f">= {LEAST_H:g}",
            met=hours >= LEAST_H,
            note=f"{seeds:,} seeds, {tally.iterations:,} iterations",
        ),
        Row(name="requests", value=tally.ends.total(), unit="", rounds=seeds, note=ends),
        Row(name="preemptions", value=tally.preemptions, unit="", rounds=seeds),
        broken_row(tally.broken, seeds),
    ]
