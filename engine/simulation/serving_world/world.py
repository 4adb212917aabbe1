"""One server, its clients, and what goes wrong: engine, scheduler, cache and the requests that
outlive an engine are the objects of a live server."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.recorder import NullRecorder
from engine.profiles.latency import latency_of
from engine.scheduling.registry import Knowledge, make_policy
from engine.serving.api.open_requests import OpenRequests
from engine.serving.sampling.sampler import NO_TOKEN, Chosen
from engine.serving.worker.engine import Engine
from engine.serving.worker.tick import Outcome as Computed
from engine.serving.worker.tick import Tick
from engine.simulation.serving_world.clients import Arrivals, BrokenError, Client, true_token
from engine.simulation.serving_world.leftovers import leftovers
from engine.simulation.serving_world.scenario import CHAOS_S, HEALED_S, Fault, scenario
from engine.simulation.serving_world.witness import Witness
from engine.simulation.timeline import stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.scheduling.iteration import Work
    from engine.serving.request import GenerationRequest, Token

_IDLE_S = 0.005
_STALL_S = 20.0
_BURST = 20
_SLOW_MOVE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a seed.

    Attributes:
        simulated_s: seconds that it took there.
        ends: how requests ended, and how often.
        broken: which invariant did not hold; "": all did.
    """

    seed: int
    simulated_s: float
    iterations: int
    ends: Counter[str]
    faults: Counter[Fault]
    preemptions: int
    broken: str


class _Killed(Exception):  # noqa: N818 - no error: what happens to an engine
    """The engine's process is gone."""


class ServingWorld:
    """Of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.scenario = scenario(seed)
        self.faults: Counter[Fault] = Counter()
        self._chance = stream(seed, "world")
        self._arrivals = Arrivals(self.scenario, stream(seed, "arrivals"))
        self._clients: dict[int, Client] = {}
        self._open = OpenRequests()
        self._now = 0.0
        self._next_arrival_s = 0.0
        self._iterations = 0
        self._preemptions = 0
        self._start_engine()

    def run(self) -> Outcome:
        """Chaos first, then until all has ended."""
        broken = ""
        try:
            while self._now < CHAOS_S or len(self._open):
                self._live()
                if self._now > CHAOS_S + HEALED_S:
                    raise BrokenError(f"{len(self._open)} requests do not end")
            self._come_to_rest()
        except Exception as error:  # noqa: BLE001 - whatever it is, it breaks the server
            broken = f"{type(error).__name__}: {error}"
        return Outcome(
            seed=self.seed,
            simulated_s=self._now,
            iterations=self._iterations,
            ends=Counter(
                "left" if each.left else str(each.finish) for each in self._clients.values()
            ),
            faults=self.faults,
            preemptions=self._preemptions + self._engine.load().preemptions,
            broken=broken,
        )

    def _live(self) -> None:
        """One tick of the engine, and what happens beside it."""
        self._arrive()
        try:
            self._tick()
        except _Killed:
            self._replace_engine()
        leaving = [n for n in self._clients if self._clients[n].leaves] if self._chaotic else []
        for number in leaving:
            self._strike(Fault.CANCEL)
            self._clients[number].left = True
            self._withdrawn.append(number)
            self._joined += self._open.forget([number])

    @property
    def _chaotic(self) -> bool:
        return self._now < CHAOS_S

    def _start_engine(self) -> None:
        limits = self.scenario.limits
        self._runner = Witness(limits)
        latency = latency_of((0.002, 0.0005, 0.0), (self.scenario.iteration_s, 0.0, 0.0001))
        policy = make_policy(self.scenario.policy, Knowledge(profile=latency))
        self._engine = Engine(policy, limits, self._runner.cache, NullRecorder())
        self._joined: list[GenerationRequest] = []
        self._withdrawn: list[int] = []
        self._computed: deque[Computed] = deque()
        self._idle = False
        self._held_back: dict[int, float] = {}
        self._at_work: deque[set[int]] = deque()
        self._told: set[int] = set()

    def _replace_engine(self) -> None:
        self._preemptions += self._engine.load().preemptions
        for number in self._told:
            self._clients[number].deaths += 1
        self._start_engine()
        failed, joining = self._open.bury()
        self._deliver(failed)
        self._joined += joining
        self._now += 1.0

    def _arrive(self) -> None:
        while self._chaotic and self._next_arrival_s <= self._now:
            count = _BURST if self._strikes(Fault.BURST) else 1
            clients = [self._arrivals.client() for _ in range(count)]
            self._clients.update((each.request.number, each) for each in clients)
            self._open.add(each.request for each in clients)
            self._joined += [each.request for each in clients]
            gap = self._chance.expovariate(self.scenario.arrivals_per_s)
            self._next_arrival_s = max(self._now, self._next_arrival_s) + gap

    def _tick(self) -> None:
        """_Killed: the engine is."""
        tick = Tick(
            now=self._now,
            outcomes=tuple(self._ended()),
            moved=tuple(self._arrived()),
            withdrawn=tuple(self._withdrawn),
            joined=tuple(self._joined),
        )
        self._joined, self._withdrawn = [], []
        tokens, iteration = self._engine.step(tick)
        self._maybe_kill(Fault.KILL_SILENT)
        self._deliver(tokens)
        self._joined += self._open.take(tokens, self._engine.unproven)
        self._at_work.append({each.job.number for each in iteration.work})
        self._told = set[int]().union(*self._at_work)
        self._idle = iteration.idle
        self._runner.cache.move(iteration)
        if iteration.work:
            self._computed.append(self._compute(iteration.work))
        else:
            self._at_work.pop()
        self._maybe_kill(Fault.KILL)
        if self._strikes(Fault.STALL):
            self._now += _STALL_S

    def _ended(self) -> Iterator[Computed]:
        """Iterations that have left the pipeline: none while there is room in it."""
        if self._computed and (self._idle or len(self._computed) == self.scenario.stages):
            self._at_work.popleft()
            yield self._computed.popleft()

    def _compute(self, work: tuple[Work, ...]) -> Computed:
        self._maybe_kill(Fault.KILL_STARTING)
        for each in work:
            if self._clients[each.job.number].poison:
                self._strike(Fault.POISON)
                raise _Killed
        self._iterations += 1
        self._runner.compute(work, self._engine.texts(work))
        seconds = self.scenario.iteration_s * (0.5 + self._chance.random())
        self._now += seconds
        failed = {each.job.number for each in work if self._clients[each.job.number].unusable}
        self.faults[Fault.ERROR] += len(failed)
        chosen = [self._chosen(each) for each in work if each.job.number not in failed]
        return Computed(
            seconds=seconds,
            chosen=tuple(each for each in chosen if each is not None),
            failed=frozenset(failed),
        )

    def _chosen(self, work: Work) -> Chosen | None:
        if not work.gives:
            return None
        client = self._clients[work.job.number]
        place = work.first + work.tokens - len(client.request.prompt)
        if place == client.nan_at:
            self._strike(Fault.NAN)
            return Chosen(token=NO_TOKEN)
        return Chosen(token=true_token(client.request.parameters.seed, place))

    def _deliver(self, tokens: list[Token]) -> None:
        for token in tokens:
            client = self._clients[token.number]
            if not client.left:
                client.take(token)
            if client.finish:
                self._arrivals.said(client)

    def _arrived(self) -> list[int]:
        """Moves that are over; some take long."""
        found = self._runner.cache.arrived()
        for number in found:
            slow = number not in self._held_back and self._strikes(Fault.SLOW_MOVE)
            until = self._now + (self._chance.random() * _SLOW_MOVE_S if slow else 0.0)
            self._held_back.setdefault(number, until)
        arrived = [number for number in found if self._held_back[number] <= self._now]
        for number in arrived:
            del self._held_back[number]
        if not self._joined and not self._computed:
            self._now += _IDLE_S
        return arrived

    def _come_to_rest(self) -> None:
        """BrokenError: something of a request is left."""
        for _ in range(3):
            self._now += _SLOW_MOVE_S
            self._tick()
        missing = [n for n, each in self._clients.items() if not each.finish and not each.left]
        if missing:
            raise BrokenError(f"request {missing[0]} was never answered")
        if left := leftovers(self._engine):
            raise BrokenError(f"when all have ended there is left {left}")

    def _maybe_kill(self, fault: Fault) -> None:
        if self._strikes(fault):
            raise _Killed

    def _strikes(self, fault: Fault) -> bool:
        if not self._chaotic or self._chance.random() >= self.scenario.rates.get(fault, 0.0):
            return False
        self._strike(fault)
        return True

    def _strike(self, fault: Fault) -> None:
        self.faults[fault] += 1
