"""All planted bugs, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.simulation.planted import drivers, executors, hosts, memory
from engine.simulation.world.world import Parts, World

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.resilience.driver import Driver
    from engine.resilience.executor import Executor
    from engine.simulation.world.world import Outcome

_DRIVERS: tuple[type[Driver], ...] = (
    drivers.DoesNotAwaitStop,
    drivers.NoFence,
    drivers.NumbersAnew,
    drivers.TakesAnyEnd,
    drivers.NeverRepeats,
    drivers.ForgetsRelease,
    drivers.EndsOnce,
    drivers.TakesWrongPeer,
    drivers.StartsEarly,
    drivers.DeafWhileStopping,
    memory.AcknowledgesOwnCopies,
    memory.MixesTimelines,
    memory.TrustsAnyState,
    memory.TrustsOneMore,
    memory.TrustsDisk,
    memory.TakesAnyCheckpoint,
    memory.ForgetsLimit,
    memory.NeverLoops,
    memory.LoopsLate,
    memory.LosesRestart,
    memory.CountsTwice,
    hosts.BlocksForEver,
    hosts.NeverLetsIn,
    hosts.TakesAnyVerdict,
    hosts.NeverExamines,
    hosts.CountsLostCopies,
    hosts.UsesSmallHost,
    hosts.UsesEvictedHost,
    hosts.StaysGone,
    hosts.StopsByBeat,
)
_EXECUTORS: tuple[type[Executor], ...] = (
    executors.ObeysAnyDriver,
    executors.StartsTwice,
    executors.StartsAgain,
    executors.NeverOrphaned,
)
BUGS: dict[str, Parts] = {
    **{each.__name__: Parts(driver=each) for each in _DRIVERS},
    **{each.__name__: Parts(executor=each) for each in _EXECUTORS},
    "WritesLate": Parts(writes_first=False),
}
"""The state machines with each of them."""


def catch(name: str, seeds: Iterable[int]) -> Outcome | None:
    """The first seed that shows a bug; None: none did."""
    for seed in seeds:
        outcome = World(seed, BUGS[name]).run()
        if outcome.broken:
            return outcome
    return None
