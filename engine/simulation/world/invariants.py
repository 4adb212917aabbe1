"""What must hold after every event, whatever went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.resilience.effects import Note, Tell
from engine.resilience.messages import Check, Checked, Ended, Resume, Start
from engine.resilience.phase import Phase
from engine.simulation.world.scenario import Fault
from engine.simulation.world.training import right

if TYPE_CHECKING:
    from engine.resilience.effects import Effect, Finish
    from engine.resilience.executor import Action
    from engine.resilience.messages import Beat, Event, Order
    from engine.simulation.world.drivers import DriverProcess
    from engine.simulation.world.executors import ExecutorProcess
    from engine.simulation.world.training import Corruption, Group, HostRanks
    from engine.simulation.world.world import World

MOST_GAP = 0.005
"""Share of the wall clock that the ledger's causes may miss."""
_STALE_S = 8.0
"""A driver may count on a host so long after it was lost."""
_ASKED_S = 10.0
"""A checkpoint may be used so long after it was found whole."""
_LET_IN_S = 90.0
"""A host whose time is over is let in again within this."""


class Broken(Exception):  # noqa: N818 - it is what has happened to an invariant
    """An invariant does not hold."""


class Invariants:
    """Of one world. Those of executors and ranks are checked where they act; the rest here.

    Attributes:
        acknowledged: the newest step of which a driver has said that it survives any one loss.
        corruptions: of states that may still be in use.
        tainted: whether a corruption is in use that no driver can know of.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.acknowledged = 0
        self.corruptions: list[Corruption] = []
        self.tainted = False
        self.trained = False
        self.best = 0
        self.progress_s = 0.0
        self._acknowledged_s = 0.0
        self._lost_s: dict[str, float] = {}
        self._stepped = 0
        self._started = 0
        self._checks: dict[str, int] = {}
        self._told: dict[int, int] = {}
        self._ordered: dict[int, int] = {}

    def fail(self, what: str) -> None:
        """Raises Broken."""
        raise Broken(what)

    # -- executors ---

    def obeyed(self, process: ExecutorProcess, order: Order, actions: list[Action]) -> None:
        """An executor has dealt with an order."""
        if order.generation < process.obeys and actions:
            self.fail("an order of a replaced driver is obeyed")
        process.obeys = max(process.obeys, order.generation)

    def ran(self, process: ExecutorProcess, order: Start) -> None:
        """It starts ranks."""
        count = next(place.count for place in order.places if place.host == process.name)
        if count > self._world.scenario.slots(process.name):
            self.fail("a host gets more ranks than it has slots")
        if process.ranks is not None and process.ranks.present:
            self.fail("ranks of two attempts on one host")
        if process.examining:
            self.fail("ranks start while their host is examined")

    def examined(self, process: ExecutorProcess) -> None:
        """It begins a self-check."""
        if process.ranks is not None and process.ranks.present:
            self.fail("a host is examined while ranks run there")

    def lost(self, host: str, until_s: float | None = None) -> None:
        """What a host holds cannot be had: for ever, or until then."""
        self._lost_s[host] = max(self._lost_s.get(host, 0.0), until_s or self._world.timeline.now)

    # -- ranks ---

    def joined(self, group: Group, ranks: HostRanks, state: int) -> None:
        """A host's ranks have loaded their state."""
        if (ranks.order.places, ranks.order.step) != (group.order.places, group.order.step):
            self.fail("one attempt's ranks were told different things")
        if group.members and group.state != state:
            self.fail("ranks of one attempt resume from different states")
        entered = [each for each in self.corruptions if each.step <= group.step]
        if state == right(group.step):
            if self.corruptions and len(group.members) + 1 == len(group.order.places):
                self.corruptions.clear()  # what was wrong is given up, and all after it
                self.acknowledged = min(self.acknowledged, group.step)
                self.tainted = False
        elif self.tainted:
            return
        elif any(corruption.known for corruption in entered):
            self.fail("an attempt resumes from a state that was known to be corrupted")
        elif not entered:
            self.fail("an attempt resumes from a wrong state")
        else:
            self.tainted = True

    def stepped(self, group: Group) -> None:
        """An attempt has done a step."""
        if group.attempt < self._stepped:
            self.fail("an attempt steps beside a later one")
        self._stepped = group.attempt
        if group.step > self.best:
            self.best, self.progress_s = group.step, self._world.timeline.now

    def told(self, driver: DriverProcess, beat: Beat) -> None:
        """A driver has dealt with a heartbeat; what a replaced one learns is lost to the job."""
        if driver is not self._world.drivers.newest:
            return
        for corruption in self.corruptions:
            if corruption.attempt == beat.done_attempt:
                told = {done.rank for done in beat.done if done.step == corruption.step}
                corruption.told.setdefault(driver.generation, set()).update(told)

    def _known(self, corruption: Corruption) -> bool:
        ranks = self._world.scenario.ranks
        return any(len(told) == ranks for told in corruption.told.values())

    # -- drivers ---

    def driver_handled(self, driver: DriverProcess, event: Event, effects: list[Effect]) -> None:
        """A driver has dealt with an event."""
        if driver is not self._world.drivers.newest:
            return
        for effect in effects:
            self._see(driver, event, effect)
        step = driver.core.past.acknowledged
        before = self._told.setdefault(driver.generation, step)
        self._told[driver.generation] = step
        if step > before:
            self._acknowledge(driver, step)
        if driver.core.phase is not Phase.OVER:
            self._left_out(driver)

    def _see(self, driver: DriverProcess, event: Event, effect: Effect) -> None:
        """Whether one effect may follow from an event."""
        match effect:
            case Tell(order=Start() as order):
                self._start(driver, effect.host, order)
            case Tell(order=Check() as check):
                self._checks[effect.host] = check.number
            case Note(name="phase", facts={"phase": Phase.RUNNING}):
                self._run(driver.core.attempt)
            case Note(name="incident") if isinstance(event, Ended):
                if event.attempt != effect.facts["attempt"]:
                    self.fail("the end of an old attempt is taken for that of the new")
            case Note(name="host.checked") if isinstance(event, Checked):
                if self._checks.get(event.host) != event.number:
                    self.fail("the verdict of an old examination is taken")

    def began(self, driver: DriverProcess, order: Start) -> None:
        """An order to start is sent."""
        self._ordered[driver.generation] = order.attempt

    def took_over(self, driver: DriverProcess) -> None:
        """A new driver begins with what the one before has written."""
        if driver.core.attempt < self._ordered.get(driver.generation - 1, 0):
            self.fail("a driver does not know of an attempt that the one before has begun")

    def _run(self, attempt: int) -> None:
        group = self._world.groups.get(attempt)
        if group is None or group.begun_s is None:
            self.fail("an attempt is taken to run that has not begun")

    def _start(self, driver: DriverProcess, host: str, order: Start) -> None:
        """A new attempt: does it go on from where it must?"""
        if driver.core.roster[host].blocked_until_s is None:
            self.fail("a host that a person has evicted gets ranks")
        if order.attempt == self._started:
            return
        self._started = order.attempt
        disk, now = self._world.disk, self._world.timeline.now
        whole = order.resume is not Resume.DISK or disk.load(order.step) is not None
        if not whole and now > disk.damaged_s + _ASKED_S:
            self.fail("a checkpoint is used that was damaged long before")
        for corruption in self.corruptions:
            corruption.known = self._known(corruption)
        if order.step < self.acknowledged:
            enough = 2 if self._world.scenario.config.hosts > 1 else 1
            lost = [s for s in self._lost_s.values() if s >= self._acknowledged_s - _STALE_S]
            if len(lost) < enough and not self.corruptions:
                self.fail("an acknowledged step is lost")
            self.acknowledged = order.step

    def _acknowledge(self, driver: DriverProcess, step: int) -> None:
        """Whether every rank's copy is where the loss of its host does not reach it."""
        self.acknowledged = step
        self._acknowledged_s = self._world.timeline.now
        places = driver.core.places
        for place in places:
            elsewhere = [
                process
                for process in self._world.incarnations.values()
                if (process.name != place.host or len(places) == 1)
                and driver.core.roster[process.name].incarnation == process.incarnation
            ]
            held = {copy.rank for each in elsewhere for copy in each.held if copy.step == step}
            if not held.issuperset(place.ranks):
                self.fail("a step is acknowledged that no peer holds")

    def _left_out(self, driver: DriverProcess) -> None:
        now = self._world.timeline.now
        for host in driver.core.roster:
            if not host.blocked or self._world.machines[host.name].evicted:
                continue
            until_s = host.blocked_until_s
            if until_s is None:
                self.fail("a host is left out for ever")
            elif now > max(until_s, self._world.healed_s) + _LET_IN_S and host.here:
                self.fail("a sound host is left out beyond its time")

    def finished(self, driver: DriverProcess, finish: Finish) -> None:
        """The job is over."""
        ledger = driver.core.ledger
        if ledger.gap > MOST_GAP:
            self.fail("the ledger's causes do not add up")
        if min(ledger.spent_s.values()) < 0:
            self.fail("the ledger has a negative cause")
        looping = self._world.scenario.fails_at > 0
        if finish.status == "finished":
            self._finished_rightly(looping)
        elif not finish.reason.startswith("crash loop"):
            self.fail(f"the job failed: {finish.reason}")
        elif looping and self._world.faults[Fault.EVERY_TIME] != driver.core.config.loop_after:
            self.fail("a crash loop is not ended when it should")
        elif not looping and not self._world.faults_without_progress(self.progress_s):
            self.fail("sound job is called a crash loop")

    def _finished_rightly(self, looping: bool) -> None:
        if looping or not self.trained:
            self.fail("a job that did not train to its end is called finished")
        last = self._world.scenario.last_step
        if self._world.disk.checkpoints[last][0] != right(last) and not self._excused():
            self.fail("the final state is wrong")

    def _excused(self) -> bool:
        known = any(self._known(corruption) for corruption in self.corruptions)
        return self.tainted or (bool(self.corruptions) and not known)
