"""One fleet, its clients, and what goes wrong: manager, policies and the books of slots are the
objects of a live server."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from collectors.recorder import NullRecorder
from engine.elastic.fleet_profile import FleetProfile
from engine.elastic.information_base import InformationBase
from engine.elastic.manager import Manager
from engine.elastic.registry import make_fleet_policy
from engine.profiles.latency import latency_of
from engine.scheduling.registry import Knowledge, make_policy
from engine.serving.fleet.engine import FleetEngine
from engine.serving.fleet.texts import Texts
from engine.serving.fleet.tick import Tick
from engine.serving.instances.step import Done
from engine.serving.sampling.sampler import Chosen
from engine.simulation.fleet_world.scenario import CHAOS_S, HEALED_S, FleetFault, fleet_scenario
from engine.simulation.fleet_world.witness import Pools
from engine.simulation.serving_world.clients import Arrivals, BrokenError, Client, true_token
from engine.simulation.timeline import stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.serving.instances.step import Part, Step
    from engine.serving.request import GenerationRequest, Token

_NOTICES_S = 0.05  # until the others notice that one of a step is gone
_ABOUT_S = 0.01  # between the ends of a step on its instances
_BACK_S = 1.0
_STALL_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a seed.

    Attributes:
        simulated_s: seconds that it took there.
        ends: how requests ended, and how often.
        widest: instances of the largest group.
        broken: which invariant did not hold; "": all did.
    """

    seed: int
    policy: str
    simulated_s: float
    steps: int
    widest: int
    ends: Counter[str]
    faults: Counter[FleetFault]
    broken: str


class FleetWorld:
    """Of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.scenario = scenario = fleet_scenario(seed)
        self.faults: Counter[FleetFault] = Counter()
        self._chance = stream(seed, "fleet world")
        self._arrivals = Arrivals(scenario.requests, stream(seed, "arrivals"))
        self._clients: dict[int, Client] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = self._steps = self._widest = 0
        self._now = 0.0
        self._pools = Pools()
        self._texts = Texts(salt=b"witness")
        for instance in range(scenario.instances):
            self._pools.gain(instance, scenario.slots)
            self._texts.gain(instance, scenario.slots)
        self._living = dict.fromkeys(range(scenario.instances), 0)  # how often each was replaced
        self._at_work: dict[int, Step] = {}
        self._engine = FleetEngine(self._manager, self._texts, NullRecorder())
        self._forget_news()

    def run(self) -> Outcome:
        """Chaos first, then until all has ended."""
        broken = ""
        try:
            self._after(0.0, self._arrive)
            self._after(1.0, self._maybe_kill_idle)
            while self._events:
                self._live()
                if self._now > CHAOS_S + HEALED_S:
                    raise BrokenError("requests do not end")
            self._come_to_rest()
        except Exception as error:  # noqa: BLE001 - whatever it is, it breaks the server
            broken = f"{type(error).__name__}: {error}"
        return Outcome(
            seed=self.seed,
            policy=self.scenario.policy,
            simulated_s=self._now,
            steps=self._steps,
            widest=self._widest,
            ends=Counter(
                "left" if each.left else str(each.finish) for each in self._clients.values()
            ),
            faults=self.faults,
            broken=broken,
        )

    def _manager(self, prefixes: FleetEngine) -> Manager:
        scenario = self.scenario
        alone = latency_of((0.002, 0.0005, 1e-7), (scenario.requests.iteration_s, 1e-6, 0.0001))
        base = InformationBase({1: alone}, kv_bytes_per_token=1000, link_bytes_per_s=1e6)
        profile = FleetProfile(base, scenario.instances)
        return Manager(
            make_fleet_policy(scenario.policy, base, prefill_tokens=scenario.prefill_tokens),
            make_policy(scenario.requests.policy, Knowledge(profile=profile)),
            base,
            slots=dict.fromkeys(range(scenario.instances), scenario.slots),
            max_batch=scenario.requests.limits.max_batch,
            prefixes=prefixes,
        )

    @property
    def _chaotic(self) -> bool:
        return self._now < CHAOS_S

    def _live(self) -> None:
        """All that happens at one time, and what is decided of it."""
        self._now = self._events[0][0]
        while self._events and self._events[0][0] <= self._now:
            heappop(self._events)[2]()
        tick = Tick(
            now=self._now,
            lost=tuple(self._lost),
            gained=tuple(self._gained),
            done=tuple(self._done),
            joined=tuple(self._joined),
            withdrawn=tuple(self._withdrawn),
        )
        self._forget_news()
        tokens, steps = self._engine.step(tick)
        self._deliver(tokens)
        for step in steps:
            self._begin(step)

    def _forget_news(self) -> None:
        self._lost: list[int] = []
        self._gained: list[tuple[int, int]] = []
        self._done: list[Done] = []
        self._joined: list[GenerationRequest] = []
        self._withdrawn: list[int] = []

    def _after(self, seconds: float, happens: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._events, (self._now + seconds, self._count, happens))

    # -- clients ---

    def _arrive(self) -> None:
        if not self._chaotic:
            return
        client = self._arrivals.client()
        self._clients[client.request.number] = client
        self._joined.append(client.request)
        self._maybe_leave(client)
        self._after(self._chance.expovariate(self.scenario.requests.arrivals_per_s), self._arrive)

    def _deliver(self, tokens: list[Token]) -> None:
        for token in tokens:
            client = self._clients[token.number]
            if not client.left:
                client.take(token)
                self._maybe_leave(client)
            if client.finish:
                self._arrivals.said(client)

    def _maybe_leave(self, client: Client) -> None:
        if client.leaves:
            client.left = True
            self._withdrawn.append(client.request.number)
            self._after(0.0, _nothing)

    def _text(self, number: int) -> list[int]:
        """All that it can ever be."""
        request = self._clients[number].request
        seed = request.parameters.seed
        output = [true_token(seed, place) for place in range(request.max_tokens)]
        return [*request.prompt, *output]

    # -- instances ---

    def _begin(self, step: Step) -> None:
        busy = [each for each in step.instances if each in self._at_work]
        if busy or any(each not in self._living for each in step.instances):
            raise BrokenError(f"a step is told to instances that cannot begin it: {busy}")
        texts = {part.number: self._text(part.number) for part in step.parts}
        self._pools.begin(step, texts)
        self._steps += 1
        self._widest = max(self._widest, len(step.instances))
        seconds = self.scenario.requests.iteration_s * (0.5 + self._chance.random())
        if self._strikes(FleetFault.STALL):
            seconds += _STALL_S
        for each in step.instances:
            self._at_work[each] = step
        if self._strikes(FleetFault.KILL_AT_WORK):
            dies = self._chance.choice(step.instances)
            self._after(seconds * self._chance.random(), partial(self._kill, dies))
        self._after(seconds, partial(self._compute, step, texts, seconds))

    def _compute(self, step: Step, texts: dict[int, list[int]], seconds: float) -> None:
        """All are done at about the same time, unless one was killed."""
        if any(self._at_work.get(each) is not step for each in step.instances):
            return
        self._pools.end(step, texts)
        if self._strikes(FleetFault.KILL_AT_END):
            self._kill(self._chance.choice(step.instances))
            return
        for each in step.instances:
            done = self._account(step, each, seconds)
            self._after(self._chance.random() * _ABOUT_S, partial(self._tell, step, done))

    def _account(self, step: Step, instance: int, seconds: float) -> Done:
        """With the tokens that this one chose: some of the step's."""
        parts = [part for part in step.parts if part.choice is not None]
        own = [part for part in parts if _chooser(part, step) == instance]
        failed = [part.number for part in own if self._fails(part)]
        chosen = [(part.number, self._chosen(part)) for part in own if part.number not in failed]
        return Done(
            number=step.number,
            instance=instance,
            seconds=seconds,
            chosen=tuple(chosen),
            failed=tuple(failed),
        )

    def _fails(self, part: Part) -> bool:
        client = self._clients[part.number]
        assert part.choice is not None, "it gives a token"
        return client.unusable or part.choice.place == client.nan_at

    def _chosen(self, part: Part) -> Chosen:
        assert part.choice is not None, "it gives a token"
        seed = self._clients[part.number].request.parameters.seed
        return Chosen(token=true_token(seed, part.choice.place))

    def _tell(self, step: Step, done: Done) -> None:
        if self._at_work.get(done.instance) is step:
            del self._at_work[done.instance]
            self._done.append(done)

    def _kill(self, instance: int) -> None:
        """The others of its step notice soon; a new one comes up."""
        if instance not in self._living:
            return
        self.faults[FleetFault.KILL_AT_WORK] += 1
        times = self._living.pop(instance)
        step = self._at_work.pop(instance, None)
        self._lost.append(instance)
        if step is not None:
            for other in step.instances:
                if self._at_work.get(other) is step:
                    done = Done(number=step.number, instance=other, seconds=0.0, lost=instance)
                    notices_s = self._chance.random() * _NOTICES_S
                    self._after(notices_s, partial(self._tell, step, done))
        self._after(_BACK_S * self._chance.random(), partial(self._come_back, instance, times + 1))

    def _come_back(self, instance: int, times: int) -> None:
        self._living[instance] = times
        self._pools.gain(instance, self.scenario.slots)
        self._gained.append((instance, self.scenario.slots))

    def _maybe_kill_idle(self) -> None:
        idle = [each for each in self._living if each not in self._at_work]
        if idle and self._strikes(FleetFault.KILL_IDLE):
            self._kill(self._chance.choice(idle))
        if self._chaotic:
            self._after(1.0, self._maybe_kill_idle)

    def _come_to_rest(self) -> None:
        """BrokenError: something of a request is left."""
        missing = [n for n, each in self._clients.items() if not each.finish and not each.left]
        if missing:
            raise BrokenError(f"request {missing[0]} was never answered, of {len(missing)}")
        if left := self._engine.leftovers():
            raise BrokenError(f"when all have ended there is left {left}")

    def _strikes(self, fault: FleetFault) -> bool:
        if not self._chaotic or self._chance.random() >= self.scenario.rates.get(fault, 0.0):
            return False
        self.faults[fault] += fault is not FleetFault.KILL_AT_WORK  # counted when it happens
        return True


def _chooser(part: Part, step: Step) -> int:
    """Who computes the last of its tokens."""
    if part.master is not None:
        return part.master
    return step.instances[(len(part.tokens) - 1) % len(step.instances)]


def _nothing() -> None:
    """An event for its time alone: somebody has left."""
