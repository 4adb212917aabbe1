"""The process that runs an executor: the real state machine on a simulated host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.resilience.executor import (
    CheckEnded,
    DriverHeard,
    DropCopies,
    EndRanks,
    Examine,
    Leave,
    RanksBegan,
    RanksEnded,
    RanksGone,
    RunRanks,
    Send,
    TimePassed,
)
from engine.resilience.messages import Beat, Checked, Ended, Hello, Order, Resume
from engine.simulation.world.network import Connection
from engine.simulation.world.scenario import Fault
from engine.simulation.world.training import HostRanks

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.resilience.executor import Action, Happening
    from engine.resilience.messages import Check, Copy, Report, Start, StepDone
    from engine.simulation.world.drivers import DriverProcess
    from engine.simulation.world.machine import Machine
    from engine.simulation.world.world import World

_KEPT = 3
"""Copies of each rank that an executor keeps."""
_RETRY_S = (0.2, 2.0)


class ExecutorProcess:
    """One incarnation.

    Attributes:
        obeys: generation of the newest driver whose order has come.
        memory: states of ranks, one's own and the peer's; ``held`` are all copies it ever had.
        examining: number of the self-check that is going on; 0: none.
        unheard: steps that no driver has confirmed to have heard of.
    """

    def __init__(self, world: World, machine: Machine, incarnation: str) -> None:
        now = world.timeline.now
        self.world = world
        self.machine = machine
        self.name = machine.name
        self.incarnation = incarnation
        self.core = world.parts.executor(self.name, world.scenario.config, now=now)
        self.obeys = 0
        self.memory: dict[Copy, int] = {}
        self.held: set[Copy] = set()
        self.examining = 0
        self.unheard: list[StepDone] = []
        self._unheard_of = 0
        self.ranks: HostRanks | None = None
        self.connection: Connection | None = None
        self.driver: DriverProcess | None = None
        self.heard_s = now
        self.frozen_s = 0.0
        self.alive = True
        self._chance = world.chance("executors")

    # -- its life ---

    def awake(self, do: Callable[[], None]) -> None:
        """Now, or as soon as it is not frozen any more."""
        until = max(self.frozen_s, self.machine.frozen_s)
        if not self.alive:
            return
        if until > self.world.timeline.now:
            self.world.timeline.at(until, lambda: self.awake(do))
        else:
            do()

    def tick(self) -> None:
        """Once in a heartbeat."""
        config = self.world.scenario.config
        self.happen(TimePassed())
        if not self.alive:
            return
        if self.connection is not None:
            if self.world.timeline.now - self.heard_s > config.lost_after_s:
                self._reconnect()
            else:
                self._beat()
        self.world.timeline.after(config.beat_s, lambda: self.awake(self.tick))

    def die(self) -> None:
        """The process ends, its ranks with it; the system closes its connections."""
        if not self.alive:
            return
        self.alive = False
        self.machine.process = None
        self.world.invariants.lost(self.name)
        self._drop_ranks()
        if self.connection is not None:
            self.connection.close()
        if not self.world.over:
            self.world.timeline.after(self._chance.uniform(1.0, 20.0), self.machine.boot)

    def happen(self, happening: Happening) -> None:
        """Tell the state machine, and do what it wants."""
        if not self.alive:
            return
        actions = self.core.handle(happening, self.world.timeline.now)
        self.world.trace(self.incarnation, happening, actions)
        if isinstance(happening, Order):
            self.world.invariants.obeyed(self, happening, actions)
        for action in actions:
            self._carry_out(action)

    def keep(self, copy: Copy, state: int) -> None:
        """A copy has come; of each rank only the newest are kept."""
        self.memory[copy] = state
        self.held.add(copy)
        of_rank = [each for each in self.memory if each.rank == copy.rank]
        if len(of_rank) > _KEPT:
            del self.memory[min(of_rank, key=lambda each: (each.attempt, each.step))]

    def _carry_out(self, action: Action) -> None:
        match action:
            case RunRanks():
                self._run(action.order)
            case EndRanks():
                self._end(action.attempt)
            case DropCopies():
                for copy in [copy for copy in self.memory if copy.step > action.after]:
                    del self.memory[copy]
            case Examine():
                self._examine(action.order)
            case Send():
                self.report(action.report)
            case Leave():
                self.die()

    # -- its driver ---

    def connect(self) -> None:
        """Look for the newest driver, and say hello."""
        if not self.alive:
            return
        driver = self.world.drivers.newest
        if driver is None or not driver.alive:
            self._retry()
            return
        self.driver, self.heard_s = driver, self.world.timeline.now
        connection = self.connection = Connection(
            self.world.timeline,
            self.world.chance("network"),
            self.machine.link,
            lost=lambda lost: self.awake(lambda: self._note_lost(lost)),
            ended=lambda ended: driver.note_ended(self, ended),
        )
        hello = Hello(
            host=self.name,
            incarnation=self.incarnation,
            slots=self.world.scenario.slots(self.name),
            address=self.name,
            generation=self.core.generation,
            attempt=self.core.attempt,
            copies=tuple(self.memory),
        )
        connection.up(lambda: driver.accept(self, connection, hello))
        self._beat()

    def report(self, report: Report) -> None:
        """Send it, if there is a connection."""
        connection, driver = self.connection, self.driver
        if connection is not None and driver is not None:
            connection.up(lambda: driver.receive(connection, report))

    def order(self, order: Order) -> None:
        """An order has arrived, perhaps of a driver that it has left."""
        self.awake(lambda: self.happen(order))

    def confirm(self, connection: Connection, heard: int) -> None:
        """The driver has heard a heartbeat that told of so many steps."""
        if connection is self.connection:
            self.heard_s = self.world.timeline.now
            del self.unheard[:heard]
            self.happen(DriverHeard())

    def _beat(self) -> None:
        connection, driver = self.connection, self.driver
        if connection is None or driver is None:
            return
        group = self.world.groups.get(self.ranks.attempt) if self.ranks else None
        beat = Beat(
            host=self.name,
            incarnation=self.incarnation,
            attempt=self.core.attempt,
            ranks=self.ranks.states(group) if self.ranks and self.ranks.alive else (),
            done=tuple(self.unheard),
            done_attempt=self._unheard_of,
            copies=tuple(self.memory),
        )
        connection.up(lambda: driver.hear(self, connection, beat))

    def _note_lost(self, connection: Connection) -> None:
        if connection is self.connection:
            self.connection = None
            self._retry()

    def _reconnect(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        self._retry()

    def _retry(self) -> None:
        wait_s = self._chance.uniform(*_RETRY_S)
        self.world.timeline.after(wait_s, lambda: self.awake(self.connect))

    # -- its ranks ---

    def _run(self, order: Start) -> None:
        self.world.invariants.ran(self, order)
        self._drop_ranks()
        self.unheard.clear()
        self._unheard_of = order.attempt
        ranks = self.ranks = HostRanks(self, order)
        seconds = self._chance.uniform(1.0, 4.0)
        if self.machine.slow_start:
            self.machine.slow_start = False
            seconds += 60.0
        self.world.timeline.after(seconds, lambda: self.awake(lambda: self._load(ranks)))

    def _load(self, ranks: HostRanks) -> None:
        """They are up: each takes its state from where it was told to."""
        if self.ranks is not ranks or not ranks.alive:
            return
        state = self._resumed(ranks)
        if state is None:
            self.ranks_fail(ranks, what="FileNotFoundError: the state is not there")
        else:
            self.world.group(ranks.order).join(ranks, state)

    def _resumed(self, ranks: HostRanks) -> int | None:
        order = ranks.order
        if order.resume is Resume.NOTHING:
            return 0
        if order.resume is Resume.DISK:
            return self.world.disk.load(order.step)
        found = {self._fetch(rank, order) for rank in ranks.place.ranks}
        if len(found) > 1 and None not in found:
            self.world.invariants.fail("ranks of one host resume from different states")
        return None if None in found else found.pop()

    def _fetch(self, rank: int, order: Start) -> int | None:
        process = self.world.machines[order.sources[rank]].process
        if process is None:
            return None
        found = (
            state
            for copy, state in process.memory.items()
            if (copy.rank, copy.step) == (rank, order.step) and order.origin in (0, copy.attempt)
        )
        return next(found, None)

    def begin(self, ranks: HostRanks) -> None:
        """They are where their first step begins."""
        self.awake(lambda: self.happen(RanksBegan(attempt=ranks.attempt)))

    def ranks_fail(
        self, ranks: HostRanks, *, what: str = "", signal: str = "", lost_peer: bool = False
    ) -> None:
        """They end by themselves, and not well."""
        how = Ended(
            host=self.name,
            attempt=ranks.attempt,
            well=False,
            rank=ranks.place.first,
            signal=signal,
            what=what,
            lost_peer=lost_peer,
        )
        self.ranks_end(ranks, how)

    def ranks_end(self, ranks: HostRanks, how: Ended) -> None:
        """They end by themselves."""
        if self.alive and self.ranks is ranks and ranks.alive:
            ranks.alive = ranks.present = False
            self._leave_group(ranks, well=how.well)
            seconds = self._chance.uniform(0.01, 0.3)
            self.world.timeline.after(seconds, lambda: self.awake(lambda: self._ended(how)))

    def _ended(self, how: Ended) -> None:
        self._beat()  # what they have done is told before their end is
        self.happen(RanksEnded(how=how))

    def _end(self, attempt: int) -> None:
        """Kill them: they do nothing more, though it may take long until they are gone."""
        ranks = self.ranks
        if ranks is not None and ranks.alive:
            ranks.alive = False
            self._leave_group(ranks)
        seconds = self._chance.uniform(0.05, 1.5)
        if self.machine.stuck:
            self.machine.stuck = False
            seconds = self._chance.uniform(5.0, 60.0)
        self.world.timeline.after(seconds, lambda: self.awake(lambda: self._gone(ranks, attempt)))

    def _gone(self, ranks: HostRanks | None, attempt: int) -> None:
        if ranks is not None:
            ranks.present = False
        self.happen(RanksGone(attempt=attempt))

    def _drop_ranks(self) -> None:
        ranks, self.ranks = self.ranks, None
        if ranks is not None and ranks.alive:
            ranks.alive = False
            self._leave_group(ranks)

    def _leave_group(self, ranks: HostRanks, *, well: bool = False) -> None:
        group = self.world.groups.get(ranks.attempt)
        if group is not None and not well:
            group.leave(self.name)

    # -- its self-checks ---

    def _examine(self, order: Check) -> None:
        self.world.invariants.examined(self)
        if self.machine.hung_checks:
            self.machine.hung_checks -= 1
            self.world.count(Fault.CHECK_HANG)
            return
        self.examining = order.number
        seconds = self._chance.uniform(1.0, 5.0)
        self.world.timeline.after(
            seconds, lambda: self.awake(lambda: self._conclude(order.number, order.thorough))
        )

    def _conclude(self, number: int, thorough: bool) -> None:
        if self.examining == number:
            self.examining = 0
        finds = 0.9 if thorough else 0.7
        wrong = 0.01
        bad = self.machine.bad
        sound = self._chance.random() > (finds if bad else wrong)
        how = Checked(host=self.name, number=number, sound=sound, detail="" if sound else "slow")
        self.happen(CheckEnded(how=how))
