"""A host, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.simulation.world.executors import ExecutorProcess
from engine.simulation.world.network import Link

if TYPE_CHECKING:
    from engine.simulation.world.world import World


class Machine:
    """A host.

    Attributes:
        frozen_s: until then nothing runs on it.
        bad: whether its ranks fail again and again.
        hung_checks: how many of the next self-checks will not end.
        stuck: whether ranks that are to end will not.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.link = Link()
        self.frozen_s = 0.0
        self.bad = False
        self.hung_checks = 0
        self.stuck = False
        self.slow_start = False
        self.evicted = False
        self.incarnations = 0
        self.process: ExecutorProcess | None = None

    def boot(self) -> None:
        """Start an executor, unless there is one."""
        if self.process is None:
            self.incarnations += 1
            incarnation = f"{self.name}#{self.incarnations}"
            process = self.process = ExecutorProcess(self.world, self, incarnation)
            self.world.incarnations[incarnation] = process
            process.awake(process.connect)
            process.awake(process.tick)

    @property
    def busy_s(self) -> float:
        """How long what keeps it from hearing still lasts."""
        frozen_s = self.process.frozen_s if self.process is not None else 0.0
        until_s = max(self.frozen_s, frozen_s, self.link.up_s, self.link.down_s)
        return max(0.0, until_s - self.world.timeline.now)
