"""Many seeds of a simulated fleet whose instances die (:mod:`engine.simulation.fleet_world`).

A seed counts as broken if a client was given a wrong token, one twice or none; if keys and values
were another request's; if requests did not end; or if anything was left when all had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsuite.bench.options import BenchOptions
from opsuite.bench.result import Row
from opsuite.bench.seeds import broken_row, fault_rows
from opsuite.output import narrate

if TYPE_CHECKING:
    from engine.simulation.fleet_world.campaign import Tally

LEAST_SEEDS = 2000
_TOLD_EVERY = 200


def measure(rounds: int, options: BenchOptions | None = None) -> list[Row]:
    """``--seeds`` of them."""
    from engine.simulation.fleet_world.campaign import Tally, run_campaign

    seeds = (options or BenchOptions()).seeds
    narrate(f"{seeds:,} seeds of a simulated fleet")
    tally = Tally()
    for tally in run_campaign(seeds):
        if tally.seeds % _TOLD_EVERY == 0:
            narrate(f"{tally.seeds:,} seeds, {len(tally.broken)} broken")
    return [*_rows(tally), *fault_rows(tally.faults, tally.seeds)]


def _rows(tally: Tally) -> list[Row]:
    seeds = tally.seeds
    policies = ", ".join(f"{count:,} of {name}" for name, count in tally.policies.most_common())
    groups = ", ".join(f"{count:,} up to {size}" for size, count in sorted(tally.groups.items()))
    ends = ", ".join(f"{count:,} {end}" for end, count in tally.ends.most_common())
    return [
        Row(
            name="seeds",
            value=seeds,
            unit="",
            rounds=seeds,
            target=f">= {LEAST_SEEDS:,}",
            met=seeds >= LEAST_SEEDS,
            note=f"{policies}; groups: {groups}",
        ),
        Row(
            name="simulated time",
            value=tally.simulated_s / 3600,
            unit="h",
            rounds=seeds,
            note=f"{tally.steps:,} steps",
        ),
        Row(name="requests", value=tally.ends.total(), unit="", rounds=seeds, note=ends),
        broken_row(tally.broken, seeds),
    ]
