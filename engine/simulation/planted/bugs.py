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

SHOWN_BY = {
    "DoesNotAwaitStop": 259,
    "NoFence": 259,
    "NumbersAnew": 74,
    "TakesAnyEnd": 781,
    "NeverRepeats": 190,
    "ForgetsRelease": 0,
    "EndsOnce": 441,
    "TakesWrongPeer": 7,
    "StartsEarly": 1225,
    "DeafWhileStopping": 86,
    "AcknowledgesOwnCopies": 0,
    "MixesTimelines": 35,
    "TrustsAnyState": 14,
    "TrustsOneMore": 14,
    "TrustsDisk": 99,
    "TakesAnyCheckpoint": 117,
    "ForgetsLimit": 337,
    "NeverLoops": 4,
    "LoopsLate": 4,
    "LosesRestart": 1,
    "CountsTwice": 0,
    "BlocksForEver": 4,
    "NeverLetsIn": 5,
    "TakesAnyVerdict": 86,
    "NeverExamines": 1,
    "CountsLostCopies": 13,
    "UsesSmallHost": 1,
    "UsesEvictedHost": 13,
    "StaysGone": 55,
    "StopsByBeat": 259,
    "ObeysAnyDriver": 19,
    "StartsTwice": 347,
    "StartsAgain": 4,
    "NeverOrphaned": 2,
    "WritesLate": 114,
}
"""Of each, the first seed that showed it when it was planted: where to look first."""


def catch(name: str, seeds: Iterable[int]) -> Outcome | None:
    """The first seed that shows a bug; None: none did."""
    for seed in seeds:
        outcome = World(seed, BUGS[name]).run()
        if outcome.broken:
            return outcome
    return None
