"""Many seeds of the simulated fleet, in several processes, and what came of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.simulation.fleet_world.world import FleetWorld
from engine.simulation.seeds import in_batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.simulation.fleet_world.scenario import FleetFault
    from engine.simulation.fleet_world.world import Outcome

_BATCH = 10


@dataclass(kw_only=True)
class Tally:
    """What came of seeds.

    Attributes:
        groups: seeds by the largest group of each.
        broken: seeds in which an invariant did not hold, and which.
    """

    seeds: int = 0
    simulated_s: float = 0.0
    steps: int = 0
    policies: Counter[str] = field(default_factory=Counter)
    groups: Counter[int] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[FleetFault] = field(default_factory=Counter)
    broken: dict[int, str] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """One more seed."""
        self.seeds += 1
        self.simulated_s += outcome.simulated_s
        self.steps += outcome.steps
        self.policies[outcome.policy] += 1
        self.groups[outcome.widest] += 1
        self.ends += outcome.ends
        self.faults += outcome.faults
        if outcome.broken:
            self.broken[outcome.seed] = outcome.broken


def run_campaign(seeds: int) -> Iterator[Tally]:
    """Seeds from 0 on, in several processes; what came of all so far, now and then."""
    tally = Tally()
    for outcomes in in_batches(_run, seeds, batch=_BATCH):
        for outcome in outcomes:
            tally.add(outcome)
        yield tally


def _run(seeds: Sequence[int]) -> list[Outcome]:
    return [FleetWorld(seed).run() for seed in seeds]
