"""Many seeds of the simulated job, in several processes, and what came of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.simulation.planted.bugs import BUGS, catch
from engine.simulation.seeds import in_batches, new_pool
from engine.simulation.world.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.simulation.world.scenario import Fault
    from engine.simulation.world.world import Outcome

_BATCH = 100


@dataclass(kw_only=True)
class Tally:
    """What came of seeds.

    Attributes:
        broken: seeds in which an invariant did not hold, and which.
        tainted: seeds that ended with a corruption that no driver could know of: the numbers that
            would have shown it went with a process that ended.
    """

    seeds: int = 0
    simulated_s: float = 0.0
    faults: Counter[Fault] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    broken: dict[int, str] = field(default_factory=dict)
    tainted: list[int] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """One more seed."""
        self.seeds += 1
        self.simulated_s += outcome.simulated_s
        self.faults += outcome.faults
        self.statuses[outcome.status] += 1
        if outcome.broken:
            self.broken[outcome.seed] = outcome.broken
        if outcome.tainted:
            self.tainted.append(outcome.seed)

    def join(self, other: Tally) -> None:
        """Other seeds."""
        self.seeds += other.seeds
        self.simulated_s += other.simulated_s
        self.faults += other.faults
        self.statuses += other.statuses
        self.broken.update(other.broken)
        self.tainted += other.tainted


def run_seeds(seeds: Sequence[int]) -> Tally:
    """In this process."""
    tally = Tally()
    for seed in seeds:
        tally.add(World(seed).run())
    return tally


def run_campaign(seeds: int, progress: Callable[[Tally], None] | None = None) -> Tally:
    """Seeds from 0 on, in several processes.

    Args:
        progress: told what came of all so far, now and then.
    """
    whole = Tally()
    for tally in in_batches(run_seeds, seeds, batch=_BATCH):
        whole.join(tally)
        if progress is not None:
            progress(whole)
    return whole


def catch_planted(most: int) -> dict[str, Outcome | None]:
    """Of each planted bug, the first of ``most`` seeds that shows it.

    Args:
        most: seeds from 0 on.
    """
    with new_pool() as pool:
        found = pool.map(catch, BUGS, [range(most)] * len(BUGS))
        return dict(zip(BUGS, found, strict=True))
