"""As many engines as instances: each request goes to the one with the least work outstanding."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from engine.simulation.fleet.engines import make_engine
from engine.simulation.serve.life import Outcome
from engine.simulation.serve.request import Workload

if TYPE_CHECKING:
    from engine.profiles.latency import Latency
    from engine.simulation.fleet.engines import Engine, Order
    from engine.simulation.fleet.set_up import FleetSetUp
    from engine.simulation.serve.life import Life
    from engine.simulation.serve.request import Request

_TOKENS_YET = 100  # that a request is supposed to give yet, since nobody knows


class _Replica:
    """One engine, and what it has to do as its dispatcher sees it."""

    def __init__(self, engine: Engine, latency: Latency) -> None:
        self.engine = engine
        self._latency = latency
        self._open: list[Life] = []

    def offer(self, request: Request) -> Life:
        life = self.engine.offer(request)
        self._open.append(life)
        return life

    def outstanding_s(self) -> float:
        """What its requests add to its iterations yet, by estimate."""
        self._open = [life for life in self._open if not life.finished]
        terms = self._latency.small
        prompts, prefill_s = 0, 0.0
        for life in self._open:
            prompts += life.request.prompt_tokens
            if life.first_s is None:
                prefill_s += self._latency.added_s(life.request.prompt_tokens)
        decode_s = terms.sequence * len(self._open) + terms.context * prompts
        return prefill_s + _TOKENS_YET * decode_s


def simulate_replicas(
    set_up: FleetSetUp, workload: Workload, *, order: Order, chunk: int | None
) -> Outcome:
    """Every request fits into one instance."""
    latency = set_up.base.latency(1)
    nothing = Workload(name=workload.name, requests=())
    make = partial(make_engine, set_up, latency, nothing, instances=1, order=order, chunk=chunk)
    counted = [_Replica(make(exact=False), latency) for _ in range(set_up.instances)]
    outcome = _dispatched(workload, counted)
    if not any(each.engine.short for each in counted):
        return outcome
    walked = [_Replica(make(exact=True), latency) for _ in range(set_up.instances)]
    return _dispatched(workload, walked)


def _dispatched(workload: Workload, replicas: list[_Replica]) -> Outcome:
    lives = []
    for request in workload.requests:
        for each in replicas:
            each.engine.advance(request.arrival_s)
        lives.append(min(replicas, key=_Replica.outstanding_s).offer(request))
    return _together([each.engine for each in replicas], lives)


def _together(engines: list[Engine], lives: list[Life]) -> Outcome:
    outcomes = [engine.run() for engine in engines]
    return Outcome(
        policy="replicas",
        lives=lives,
        end_s=max(each.end_s for each in outcomes),
        iterations=sum(each.iterations for each in outcomes),
        busy_s=sum(each.busy_s for each in outcomes) / len(engines),
        waited_s=0.0,
        swapped_bytes=0,
    )
