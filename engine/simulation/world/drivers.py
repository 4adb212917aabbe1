"""Processes that run drivers: each writes what the next must know, then does what it was told."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from engine.resilience.effects import FindOnDisk, Finish, Tell
from engine.resilience.messages import Disconnected, OnDisk, Start, Tick
from engine.simulation.world.scenario import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.resilience.effects import Effect
    from engine.resilience.messages import Beat, Event, Hello, Order, Report
    from engine.simulation.world.executors import ExecutorProcess
    from engine.simulation.world.network import Connection
    from engine.simulation.world.world import World

TICK_S = 1.0
_WRITES = 0.5  # of the events upon which nothing new depends


class DriverProcess:
    """One driver.

    Attributes:
        frozen_s: until then it does nothing.
        doom: how it will end at the next effects that it has: a fault, or None.
    """

    def __init__(self, world: World, generation: int) -> None:
        self.world = world
        self.generation = generation
        self.alive = True
        self.frozen_s = 0.0
        self.doom: Fault | None = None
        self.core = world.parts.driver(
            world.scenario.config,
            generation=generation,
            ranks_per_host=world.scenario.ranks_per_host,
            last_step=world.scenario.last_step,
            now=world.timeline.now,
            on_disk=world.disk.newest_whole(None),
            past=world.disk.read(),
        )
        self._current: dict[str, tuple[ExecutorProcess, Connection]] = {}
        self._last_order: dict[str, Order] = {}
        self._looked_s = world.timeline.now

    # -- its life ---

    def awake(self, do: Callable[[], None]) -> None:
        """Now, or as soon as it is not frozen any more."""
        if not self.alive:
            return
        if self.frozen_s > self.world.timeline.now:
            self.world.timeline.at(self.frozen_s, lambda: self.awake(do))
        else:
            do()

    def tick(self) -> None:
        """Once a second. Every few, it looks whether it was replaced."""
        now = self.world.timeline.now
        if now - self._looked_s > self.world.scenario.config.lost_after_s:
            self._looked_s = now
            if self.world.drivers.generation > self.generation:
                self.die()
                return
        self.handle(Tick())
        if not self.alive:
            return
        self.world.timeline.after(TICK_S, lambda: self.awake(self.tick))

    def die(self) -> None:
        """It ends; the system breaks its connections."""
        self.alive = False
        for _, connection in list(self._current.values()):
            connection.snap()
        self.world.drivers.replace(self)

    # -- what it hears ---

    def accept(self, process: ExecutorProcess, connection: Connection, hello: Hello) -> None:
        """A hello has arrived."""
        self.awake(lambda: self._accept(process, connection, hello))

    def hear(self, process: ExecutorProcess, connection: Connection, beat: Beat) -> None:
        """A heartbeat has arrived: it is answered when it has been dealt with."""
        self.awake(lambda: self._hear(process, connection, beat))

    def receive(self, connection: Connection, report: Report) -> None:
        """Any other report."""
        self.awake(lambda: self.handle(report))

    def note_ended(self, process: ExecutorProcess, connection: Connection) -> None:
        """It hears that a connection has ended; not always in time."""
        gone = Disconnected(host=process.name, incarnation=process.incarnation)
        self.awake(lambda: self._note_ended(gone, connection))

    def handle(self, event: Event) -> None:
        """Tell the state machine; write; do what it wants."""
        promised = self.core.promised
        if self.doom is not None and self.world.chance("drivers").random() < _WRITES:
            self.leave()  # what was written before
        effects = self.core.handle(event, self.world.timeline.now)
        self.world.trace(f"driver{self.generation}", event, effects)
        doomed = self.doom is not None and any(isinstance(effect, Tell) for effect in effects)
        if not (doomed and self.doom is Fault.DRIVER_TORN):
            self.world.invariants.driver_handled(self, event, effects)
        if doomed:
            self._crash(effects)
            return
        if self.doom is not None and (effects or promised != self.core.promised):
            self.leave()
        for effect in effects:
            self._carry_out(effect)

    def flush(self) -> None:
        """It wakes up: what was stuck in its buffers is sent."""
        for process, connection in self._current.values():
            order = self._last_order.get(process.incarnation)
            if order is not None:
                connection.down(partial(process.order, order))

    # -- how ---

    def _accept(self, process: ExecutorProcess, connection: Connection, hello: Hello) -> None:
        current = self._current.get(process.name)
        if current is None or current[1].number <= connection.number:
            self._current[process.name] = (process, connection)
        self.handle(hello)
        again = self._last_order.get(process.incarnation)
        if again is not None and self.world.chance("network").random() < 0.2:
            connection.down(lambda: process.order(again))  # what was sent before comes once more

    def _hear(self, process: ExecutorProcess, connection: Connection, beat: Beat) -> None:
        self.handle(beat)
        if self.alive:
            if self.world.invariants.corruptions:
                self.world.invariants.told(self, beat)
            connection.down(
                lambda: process.awake(lambda: process.confirm(connection, len(beat.done)))
            )

    def _note_ended(self, gone: Disconnected, connection: Connection) -> None:
        current = self._current.get(gone.host)
        if current is not None and current[1] is connection:
            del self._current[gone.host]
        self.handle(gone)

    def _crash(self, effects: list[Effect]) -> None:
        """It crashes before its state is written, and then nothing was done; or midway."""
        if self.doom is Fault.DRIVER_TORN:
            done = 0 if self.world.parts.writes_first else len(effects)
        else:
            self.leave()
            done = self.world.chance("drivers").randrange(len(effects))
        for effect in effects[:done]:
            self._carry_out(effect)
        self.die()

    def leave(self) -> None:
        """What it has written last, as it is on the disk when it crashes now."""
        self.world.disk.write(self.generation, self.core.to_json())

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Tell():
                self._send(effect.host, effect.order)
            case FindOnDisk():
                found = self.world.chance("drivers").uniform(0.05, 0.5)
                at_most = effect.at_most
                self.world.timeline.after(found, lambda: self.awake(lambda: self._answer(at_most)))
            case Finish():
                self.world.finish(self, effect)

    def _answer(self, at_most: int | None) -> None:
        self.handle(OnDisk(step=self.world.disk.newest_whole(at_most)))

    def _send(self, host: str, order: Order) -> None:
        current = self._current.get(host)
        if current is not None:
            process, connection = current
            self._last_order[process.incarnation] = order
            if isinstance(order, Start):
                self.world.invariants.began(self, order)
            connection.down(lambda: process.order(order))


class Drivers:
    """All drivers that there ever were, and who is the newest."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.newest: DriverProcess | None = None

    @property
    def generation(self) -> int:
        """Of the newest."""
        return self.newest.generation if self.newest is not None else 0

    def begin(self) -> DriverProcess:
        """A new one takes over."""
        if self.newest is not None and self.newest.alive:  # only taken for dead
            self.newest.leave()
        process = DriverProcess(self._world, self.generation + 1)
        self.newest = process
        self._world.invariants.took_over(process)
        process.tick()
        return process

    def replace(self, process: DriverProcess) -> None:
        """Whoever watches over drivers starts another, unless that was done already."""
        if process is self.newest and not self._world.over:
            seconds = self._world.chance("drivers").uniform(0.5, 15.0)
            self._world.timeline.after(seconds, lambda: self._begin_after(process))

    def _begin_after(self, process: DriverProcess) -> None:
        if process is self.newest and not self._world.over:
            self.begin()
