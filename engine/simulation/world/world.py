"""A job in its world: first all goes wrong that may, then all heals, and it must end well."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from engine.resilience.driver import Driver
from engine.resilience.executor import Executor
from engine.resilience.messages import Asked, Wish
from engine.resilience.phase import Phase
from engine.simulation.timeline import Timeline, stream
from engine.simulation.world.chaos import Chaos
from engine.simulation.world.disk import Disk
from engine.simulation.world.drivers import Drivers
from engine.simulation.world.invariants import Broken, Invariants
from engine.simulation.world.machine import Machine
from engine.simulation.world.scenario import CHAOS_S, HEALED_S, Fault, draw
from engine.simulation.world.training import Group

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from engine.resilience.effects import Finish
    from engine.resilience.messages import Start
    from engine.simulation.world.drivers import DriverProcess
    from engine.simulation.world.executors import ExecutorProcess

_SLICE_S = 5.0
_RESUME_S = 60.0
_LEAVE_S = 80.0
"""Within which executors leave when the job is over, be it for want of a driver."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What runs in a world: the shipped state machines, or some with a planted bug.

    Attributes:
        writes_first: whether drivers write their state before they carry out effects.
    """

    driver: type[Driver] = Driver
    executor: type[Executor] = Executor
    writes_first: bool = True


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a seed went.

    Attributes:
        status: of the job, "" where it was not over.
        broken: the invariant that did not hold, or "".
        trace: hash of all events and effects, "" where it was not asked for.
    """

    seed: int
    status: str
    reason: str
    broken: str
    simulated_s: float
    faults: Counter[Fault]
    tainted: bool
    trace: str


class World:
    """One seed's.

    Args:
        traced: whether to hash all events and effects.
    """

    def __init__(self, seed: int, parts: Parts | None = None, *, traced: bool = False) -> None:
        self.parts = parts or Parts()
        self.scenario = draw(seed)
        self.timeline = Timeline()
        self.disk = Disk()
        self.groups: dict[int, Group] = {}
        self.incarnations: dict[str, ExecutorProcess] = {}
        self.faults: Counter[Fault] = Counter()
        self.strikes: list[float] = []
        self.odd_steps: set[int] = set()
        self.healed_s = CHAOS_S
        self._streams: dict[str, Random] = {}
        self._hash = sha256() if traced else None
        self._finish: Finish | None = None
        self.invariants = Invariants(self)
        self.chaos = Chaos(self)
        self.machines = {name: Machine(self, name) for name in self.scenario.hosts}
        self.drivers = Drivers(self)

    def run(self) -> Outcome:
        """Let it happen, to the end or to the first invariant that does not hold."""
        broken = ""
        try:
            self._happen()
        except Broken as error:
            broken = str(error)
        except Exception as error:  # noqa: BLE001 - a state machine that raises is broken, too
            broken = f"{type(error).__name__}: {error}"
        return Outcome(
            seed=self.scenario.seed,
            status=self._finish.status if self._finish is not None else "",
            reason=self._finish.reason if self._finish is not None else "",
            broken=broken,
            simulated_s=self.timeline.now,
            faults=self.faults,
            tainted=self.invariants.tainted,
            trace=self._hash.hexdigest() if self._hash is not None else "",
        )

    def _happen(self) -> None:
        self.chaos.plan()
        self.drivers.begin()
        for machine in self.machines.values():
            self.timeline.after(self.chance("executors").uniform(0.0, 3.0), machine.boot)
        self._run_until(CHAOS_S)
        self._heal()
        self._run_until(CHAOS_S + HEALED_S)
        if self._finish is None:
            driver = self.drivers.newest
            doing = driver.core.phase if driver is not None else "without a driver"
            self.invariants.fail(f"a healed job is not over in time: {doing}")
        self._await_leave()

    def _run_until(self, end: float) -> None:
        while self._finish is None and self.timeline.now < end:
            self.timeline.run(min(end, self.timeline.now + _SLICE_S))

    def _heal(self) -> None:
        """Nothing new goes wrong, and what is bad is repaired; what is under way still ends."""
        self.chaos.over = True
        self.healed_s = self.timeline.now
        for machine in self.machines.values():
            machine.bad = machine.stuck = machine.slow_start = False
            machine.hung_checks = 0
        if self.drivers.newest is not None:
            self.drivers.newest.doom = None
        self._resume()

    def _resume(self) -> None:
        """People do not leave a job paused for ever, also where a driver heeds them late."""
        driver = self.drivers.newest
        if driver is not None and driver.core.phase is Phase.PAUSED:
            driver.awake(lambda: driver.handle(Asked(wish=Wish.RESUME)))
        if not self.over:
            self.timeline.after(_RESUME_S, self._resume)

    def _await_leave(self) -> None:
        """An executor must not outlive its job."""
        self._heal()
        end = self.timeline.now + _LEAVE_S + max(m.busy_s for m in self.machines.values())
        while any(m.process for m in self.machines.values()) and self.timeline.now < end:
            self.timeline.run(self.timeline.now + _SLICE_S)
        if any(machine.process for machine in self.machines.values()):
            self.invariants.fail("an executor outlives its job")

    # -- what its parts share ---

    def chance(self, name: str) -> Random:
        """Of one part; parts do not disturb each other's."""
        if name not in self._streams:
            self._streams[name] = stream(self.scenario.seed, name)
        return self._streams[name]

    def group(self, order: Start) -> Group:
        """The ranks of an attempt."""
        if order.attempt not in self.groups:
            self.groups[order.attempt] = Group(self, order)
        return self.groups[order.attempt]

    @property
    def stepping(self) -> Group | None:
        """The attempt that is stepping, if one is."""
        for group in self.groups.values():
            if group.begun_s is not None and not group.broken and group.hung is None:
                return group
        return None

    @property
    def over(self) -> bool:
        """Whether the job is."""
        return self._finish is not None

    def finish(self, driver: DriverProcess, finish: Finish) -> None:
        """A driver says that the job is over: one that was replaced has no say."""
        if driver is not self.drivers.newest:
            driver.die()
        elif self._finish is None:
            self._finish = finish
            self.invariants.finished(driver, finish)

    def count(self, fault: Fault) -> None:
        """It has happened."""
        self.faults[fault] += 1
        self.strikes.append(self.timeline.now)

    def faults_without_progress(self, since_s: float) -> bool:
        """Whether so many came since the job last did something new that it may be given up."""
        margin_s = 60.0  # a fault may show only after steps that follow it
        recent = [when for when in self.strikes if when >= since_s - margin_s]
        return len(recent) >= self.scenario.config.loop_after

    def trace(self, who: str, event: object, answers: Sequence[object]) -> None:
        """Remember what happened, if it is asked for."""
        if self._hash is not None:
            self._hash.update(f"{self.timeline.now!r} {who} {event!r} {answers!r}\n".encode())
