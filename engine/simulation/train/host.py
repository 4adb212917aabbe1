"""A simulated host: the executor that ships, and what happens to its ranks and its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from engine.resilience.executor import (
    CheckEnded,
    DriverHeard,
    DropCopies,
    EndRanks,
    Examine,
    Executor,
    RanksBegan,
    RanksEnded,
    RanksGone,
    RunRanks,
    Send,
)
from engine.resilience.messages import Checked, Copy, Ended, Hello
from engine.simulation.interruptions import Shows

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from engine.resilience.config import ResilienceConfig
    from engine.resilience.executor import Action, Happening
    from engine.resilience.messages import Order, Report
    from engine.simulation.interruptions import Component
    from engine.simulation.timeline import Timeline

_SIGNALS = {Shows.CRASH: "SIGABRT", Shows.KILL: "SIGKILL"}


class Surroundings(Protocol):
    """What a host needs of the job's world."""

    timeline: Timeline
    chance: Random

    def tell(self, report: Report) -> None:
        """Bring it to the driver."""
        ...

    def draw(self, what: str) -> float:
        """Seconds that this cost takes this time."""
        ...

    def begins(self, attempt: int) -> float:
        """When the first step of an attempt can begin."""
        ...


class SimulatedHost:
    """One host.

    Attributes:
        fault: what is broken in it; None: nothing.
        silent: whether it does not answer any more.
        copies: states that it holds in memory.
    """

    def __init__(
        self, name: str, slots: int, config: ResilienceConfig, world: Surroundings
    ) -> None:
        self.name = name
        self.slots = slots
        self.fault: Component | None = None
        self.silent = False
        self.copies: tuple[Copy, ...] = ()
        self._config = config
        self._world = world
        self._lives = 0
        self._rank = -1
        self.executor = self._new_executor()

    def _new_executor(self) -> Executor:
        self._lives += 1
        return Executor(self.name, self._config, now=self._world.timeline.now)

    @property
    def incarnation(self) -> str:
        """Of its executor."""
        return f"{self.name}:{self._lives}"

    @property
    def hello(self) -> Hello:
        """Its first report."""
        return Hello(
            host=self.name, incarnation=self.incarnation, slots=self.slots, address=self.name
        )

    def begin_anew(self) -> None:
        """With a new executor: the job was given up."""
        self.copies = ()
        self.executor = self._new_executor()

    def obey(self, order: Order) -> None:
        """An order has come."""
        self._handle(order)

    def end_ranks(self, shows: Shows) -> None:
        """A rank ends by itself, and all others of the host with it."""
        how = Ended(
            host=self.name,
            attempt=self.executor.attempt,
            well=False,
            rank=self._rank,
            signal=_SIGNALS.get(shows, ""),
            what="" if shows in _SIGNALS else "an error",
        )
        self._handle(RanksEnded(how=how))

    def _handle(self, happening: Happening) -> None:
        if self.silent:
            return
        now = self._world.timeline.now
        self.executor.handle(DriverHeard(), now)
        for action in self.executor.handle(happening, now):
            self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send():
                self._world.tell(action.report)
            case RunRanks():
                order, executor = action.order, self.executor
                attempt = order.attempt
                self._rank = next(p.first for p in order.places if p.host == self.name)
                when = self._world.begins(attempt)
                self._world.timeline.at(when, lambda: self._begin(attempt, executor))
            case EndRanks():
                ended = RanksGone(attempt=action.attempt)
                self._later("stop_s", lambda: self._handle(ended))
            case DropCopies():
                self.copies = tuple(copy for copy in self.copies if copy.step <= action.after)
            case Examine():
                number = action.order.number
                self._later("check_s", lambda: self._examined(number))

    def _later(self, cost: str, do: Callable[[], None]) -> None:
        self._world.timeline.after(self._world.draw(cost), do)

    def _begin(self, attempt: int, executor: Executor) -> None:
        if self.executor is not executor or executor.attempt != attempt:
            return
        self._handle(RanksBegan(attempt=attempt))

    def _examined(self, number: int) -> None:
        bad = self.fault is not None and self._world.chance.random() < self.fault.found
        detail = self.fault.component if bad and self.fault else ""
        how = Checked(host=self.name, number=number, sound=not bad, detail=detail)
        self._handle(CheckEnded(how=how))
