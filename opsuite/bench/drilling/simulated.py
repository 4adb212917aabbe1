"""The simulated drills: many seeds of a job in a world where all goes wrong, and planted bugs.

The driver and the executors are the objects of a live job; time, network, disks and ranks are
simulated (:mod:`engine.simulation.world`). A seed counts as broken if an invariant did not hold
after any event, or if the job did not end well once everything was healed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opsuite.bench.result import Row
from opsuite.bench.seeds import broken_row, fault_rows
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.simulation.campaign import Tally
    from engine.simulation.world.world import Outcome

CATCH_WITHIN = 3_000
"""Seeds within which every planted bug must show."""
_TOLD_EVERY = 1_000


def measure(seeds: int) -> list[Row]:
    """Run the seeds, then plant each bug."""
    from engine.simulation.campaign import catch_planted, run_campaign

    narrate(f"{seeds:,} seeds of a simulated job")
    begun_s = time.perf_counter()
    tally = run_campaign(seeds, _tell)
    wall_s = time.perf_counter() - begun_s
    narrate("planting bugs")
    caught = catch_planted(CATCH_WITHIN)
    return [
        *_seed_rows(tally, wall_s),
        _planted_row(caught),
        *fault_rows(tally.faults, tally.seeds),
    ]


def _tell(tally: Tally) -> None:
    if tally.seeds % _TOLD_EVERY == 0:
        narrate(f"{tally.seeds:,} seeds, {len(tally.broken)} broken")


def _seed_rows(tally: Tally, wall_s: float) -> list[Row]:
    from engine.simulation.seeds import PROCESSES

    seeds = tally.seeds
    ends = ", ".join(f"{count} {status}" for status, count in tally.statuses.most_common())
    unseen = "a corruption whose numbers went with a process that ended or was replaced"
    return [
        Row(name="seeds", value=seeds, unit="", rounds=seeds, note=f"jobs: {ends}"),
        Row(name="simulated time", value=tally.simulated_s / 3600, unit="h", rounds=seeds),
        Row(
            name="seeds a second, a process",
            value=seeds / wall_s / PROCESSES,
            unit="1/s",
            rounds=seeds,
            note=f"{PROCESSES} processes, {wall_s:.0f} s",
        ),
        broken_row(tally.broken, seeds),
        Row(
            name="corruptions that nobody could see",
            value=len(tally.tainted),
            unit="",
            rounds=seeds,
            note=unseen if tally.tainted else "",
        ),
    ]


def _planted_row(caught: Mapping[str, Outcome | None]) -> Row:
    missed = [name for name, outcome in caught.items() if outcome is None]
    found = [outcome.seed + 1 for outcome in caught.values() if outcome is not None]
    return Row(
        name="planted bugs caught",
        value=len(found),
        unit="",
        baseline=len(caught),
        ratio=len(found) / len(caught),
        rounds=max(found, default=0),
        target="all",
        met=not missed,
        note=f"within {max(found, default=0)} seeds" + (f"; missed: {missed}" if missed else ""),
    )
