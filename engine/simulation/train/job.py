"""A job in simulated time: the driver that ships, its hosts, failures, and what all of it costs.

Driver and executors are those of a live job. What is simulated is what lies around them: processes
that begin and end, hosts that fail and are replaced, the memory and the disk that states lie in,
and the clock. Steps and heartbeats in which nothing happens are not simulated one by one.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from engine.resilience.driver import Driver, Phase
from engine.resilience.effects import CallHook, FindOnDisk, Finish, Note, Tell
from engine.resilience.ledger import Spent
from engine.resilience.messages import Asked, Disconnected, OnDisk, Tick, Wish
from engine.simulation.timeline import Timeline, stream
from engine.simulation.train.faults import Faults
from engine.simulation.train.heartbeats import heartbeats
from engine.simulation.train.host import SimulatedHost
from engine.simulation.train.losses import Losses
from engine.simulation.train.outcome import Outcome
from engine.simulation.train.pace import Pace
from engine.simulation.train.training import Training

if TYPE_CHECKING:
    from random import Random

    from engine.resilience.effects import Effect
    from engine.resilience.messages import Event
    from engine.simulation.train.costs import Costs
    from engine.simulation.train.failures import Load
    from engine.simulation.train.scale import Scale

_EVER = 10**9  # steps
_SOON_S = 0.001
_LOOK_S = {Phase.STOPPING: 1.0, Phase.GATHERING: 30.0}  # is time told to the driver
_NEVER_S = 1e12


class Job:
    """One run of one seed.

    Attributes:
        driver: the one that drives it now.
        hosts: that are there, by name.
        training: while all ranks step.
        on_disk: the step of the newest checkpoint.
    """

    def __init__(self, scale: Scale, costs: Costs, load: Load, seed: int) -> None:
        self.scale = scale
        self.costs = costs
        self.load = load
        self.seed = seed
        self.config = costs.configure(scale.simulated_hosts)
        self.host_config = self.config.model_copy(update={"orphan_s": _NEVER_S})  # no driver ends
        self.pace = Pace.of(costs)
        self.timeline = Timeline()
        self.chance = stream(seed, "chance")
        self.losses = Losses()
        self.hosts: dict[str, SimulatedHost] = {}
        self.training: Training | None = None
        self.on_disk = 0
        self.faults = Faults(self)
        self._chances: dict[str, Random] = {}
        self._named = 0
        self._replaced = 0
        self._attempts = 0
        self._begins: dict[int, float] = {}
        self._beaten_s = 0.0
        self._seen = (0, Phase.OVER, 0.0)
        self._spent = dict.fromkeys(Spent, 0.0)
        self._incidents: Counter[str] = Counter()
        self._given_up = 0
        self._given_up_s: float | None = None
        self.generation = 0
        self.driver = self._new_driver()

    def run(self) -> Outcome:
        """All of it."""
        for _ in range(self.scale.simulated_hosts + self.costs.standbys):
            self._add_host()
        for failure in self.load.failures(self.seed, self.scale.duration_s):
            self.timeline.at(failure.at_s, partial(self.faults.strike, failure))
        self.timeline.run(self.scale.duration_s)
        return self._settle()

    # -- what hosts need ---

    def draw(self, what: str) -> float:
        """Seconds that a cost takes this time; each cost has a chance of its own."""
        low, high = getattr(self.costs, what)
        chance = self._chances.setdefault(what, stream(self.seed, what))
        return chance.uniform(low, high)

    def begins(self, attempt: int) -> float:
        """When the first step of an attempt can begin: its ranks meet."""
        if attempt not in self._begins:
            self._begins[attempt] = self.timeline.now + self.draw("start_s")
        return self._begins[attempt]

    def tell(self, event: Event) -> None:
        """The driver learns of it, after all that came before."""
        if self.training is not None:
            self.training.keep_up()
        else:
            self.beat(self.timeline.now)
        self.handle(event, self.timeline.now)

    def beat(self, now: float, *, news: bool = False) -> None:
        """All hosts send a heartbeat, if it is time or there is news."""
        if news or now - self._beaten_s >= self.costs.beat_s:
            self._beaten_s = now
            heartbeats(self.driver, self.hosts.values(), now)

    def handle(self, event: Event, now: float) -> None:
        """What the driver makes of an event."""
        effects = self.driver.handle(event, now)
        for effect in effects:
            self._carry_out(effect)
        self._follow()

    # -- what the driver wants done ---

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Tell():
                if (host := self.hosts.get(effect.host)) is not None:
                    self.timeline.after(0.0, partial(host.obey, effect.order))
            case FindOnDisk():
                most = self.on_disk if effect.at_most is None else effect.at_most
                step = min(most, self.on_disk) // self.costs.checkpoint_every
                found = OnDisk(step=step * self.costs.checkpoint_every)
                self.timeline.after(0.0, partial(self.tell, found))
            case CallHook(what="drain"):
                self.timeline.after(0.0, partial(self._drain, effect.host))
            case Note(name="incident"):
                self._incidents[effect.facts["cause"]] += 1
            case Note(name="host.left"):  # the site sees by itself that a machine is gone
                self.timeline.after(0.0, partial(self._drain, effect.facts["host"]))
            case Note(name="attempt"):
                self._attempts += 1
                self.on_disk = min(self.on_disk, effect.facts["step"])
            case Finish(status="failed"):
                self._give_up()

    def _follow(self) -> None:
        """The world goes along with the driver's phase; time limits of a phase are looked at."""
        driver = self.driver
        seen = (driver.attempt, driver.phase, driver.since_s)
        if seen == self._seen:
            return
        self._seen = seen
        self.training = None
        if driver.phase is Phase.RUNNING:
            self.training = Training(self)
            self.losses.begin(self.training.ends_s(self.losses.step))
            self.faults.show_again()
        firsts = {
            Phase.STOPPING: _LOOK_S[Phase.STOPPING],
            Phase.STARTING: self.config.start_s,
            Phase.GATHERING: self.config.lost_after_s,  # so long it waits for those with new copies
        }
        if driver.phase in firsts:
            when = driver.since_s + firsts[driver.phase] + _SOON_S
            self.timeline.at(when, partial(self._look_again, seen))

    def _look_again(self, seen: tuple[int, Phase, float]) -> None:
        if seen != self._seen:
            return
        self.tell(Tick())
        if seen == self._seen and (again := _LOOK_S.get(seen[1])):
            self.timeline.after(again, partial(self._look_again, seen))

    # -- hosts ---

    def _add_host(self) -> None:
        self._named += 1
        name = f"host{self._named:06d}"
        host = SimulatedHost(name, self.scale.ranks_per_host, self.host_config, self)
        self.hosts[name] = host
        self.tell(host.hello)

    def _drain(self, name: str) -> None:
        """The site takes a host away, and another comes."""
        host = self.hosts.get(name)
        if host is None:
            return
        if self.costs.replenish_s is None:  # it stays, and may pass an examination later
            until = self.driver.roster[name].blocked_until_s or 0.0
            self.timeline.at(until + _SOON_S, partial(self.tell, Tick()))
            return
        self._take_away(host)
        self.timeline.after(self.draw("replenish_s"), self._add_host)

    def _take_away(self, host: SimulatedHost) -> None:
        del self.hosts[host.name]
        self._replaced += 1
        self.tell(Disconnected(host=host.name, incarnation=host.incarnation))

    # -- drivers, one after the other ---

    def _new_driver(self) -> Driver:
        self.generation += 1
        return Driver(
            self.config,
            generation=self.generation,
            ranks_per_host=self.scale.ranks_per_host,
            last_step=_EVER,
            now=self.timeline.now,
            on_disk=self.on_disk,
        )

    def _give_up(self) -> None:
        """The driver has given up: a person comes."""
        self._given_up += 1
        self._given_up_s = self.timeline.now
        self.timeline.after(self.draw("person_s"), self._mend)

    def _mend(self) -> None:
        """A person takes bad hosts away, and starts the job again from the disk."""
        for host in [host for host in self.hosts.values() if host.fault or host.silent]:
            self._take_away(host)
            self._add_host()
        self._account()
        best = self.driver.ledger.best
        self._begins.clear()
        self.driver = self._new_driver()
        self.driver.ledger.best = best
        for host in self.hosts.values():
            host.begin_anew()
            self.tell(host.hello)

    def _account(self) -> None:
        for spent, seconds in self.driver.ledger.spent_s.items():
            self._spent[spent] += seconds
        if self._given_up_s is not None:
            self._spent[Spent.IDLE] += self.timeline.now - self._given_up_s
            self._given_up_s = None

    def _settle(self) -> Outcome:
        self.tell(Asked(wish=Wish.STOP))
        self._account()
        self.losses.close(self.timeline.now)
        return Outcome(
            wall_s=self.timeline.now,
            spent_s=self._spent,
            incidents=dict(self._incidents),
            losses=self.losses.by_component,
            attempts=self._attempts,
            given_up=self._given_up,
            replaced=self._replaced,
            steps=self.driver.ledger.best,
        )
