"""An engine that is driven by hand: every tick is decided by chance, and can be told again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from engine.scheduling.iteration import Iteration
    from engine.scheduling.limits import Limits
    from engine.serving.request import GenerationRequest
    from engine.serving.worker.engine import Engine
    from engine.serving.worker.tick import Tick


def make_engine(model: Any, policy: str, limits: Limits) -> tuple[Engine, Any]:
    """An engine and its runner."""
    import torch

    from collectors.recorder import NullRecorder
    from engine.profiles.latency import latency_of
    from engine.scheduling.registry import Knowledge, make_policy
    from engine.serving.paged.cache import PagedCache
    from engine.serving.paged.runner import PagedRunner
    from engine.serving.paged.storage import Storage
    from engine.serving.worker.engine import Engine

    storage = Storage(model.config, limits, device=torch.device("cpu"), dtype=torch.float32)
    for blocks in (storage.device_blocks, storage.host_blocks):
        blocks.fill_(float("nan"))  # what is not written must not be read
    cache = PagedCache(storage, limits, salt=b"test")
    latency = latency_of((0.01, 0.001, 0.0), (0.01, 0.0, 0.0))
    made = make_policy(policy, Knowledge(profile=latency))
    return Engine(made, limits, cache, NullRecorder()), PagedRunner(model, cache)


class Driver:
    """Requests come, are withdrawn and move when chance will have it; time is made up.

    Attributes:
        given: tokens of each request so far, and how it ended.
        ticks: all that the engine was told.
    """

    def __init__(self, model: Any, policy: str, limits: Limits, seed: int) -> None:
        self.engine, self.runner = make_engine(model, policy, limits)
        self.given: dict[int, list[int]] = {}
        self.finished: dict[int, Any] = {}
        self.ticks: list[Tick] = []
        self.iterations: list[Iteration] = []
        self._chance = random.Random(seed)
        self._now = 0.0
        self._outcome: Any = None

    def run(self, requests: list[GenerationRequest], *, withdrawn: frozenset[int]) -> None:
        """Until every request has ended; those in ``withdrawn`` are withdrawn some time."""
        waiting = list(requests)
        live: set[int] = set()
        leaving = set(withdrawn)
        while waiting or live:
            joined = [waiting.pop() for _ in range(self._chance.randint(0, 2)) if waiting]
            live |= {request.number for request in joined}
            gone = [n for n in sorted(live & leaving) if self._chance.random() < 0.1]
            leaving -= set(gone)
            self.step(joined, gone)
            live -= set(gone) | self.finished.keys()
        for _ in range(8):  # what still moves arrives
            self.step([], [])

    def step(self, joined: list[GenerationRequest], gone: list[int]) -> None:
        """One tick, and what it asks for."""
        from engine.serving.sampling.sampler import choose
        from engine.serving.worker.tick import Outcome, Tick

        self._now += self._chance.choice([0.001, 0.01, 0.5])
        arrived = [n for n in self.runner.cache.arrived() if self._chance.random() < 0.6]
        tick = Tick(
            now=self._now,
            outcomes=() if self._outcome is None else (self._outcome,),
            moved=tuple(arrived),
            withdrawn=tuple(gone),
            joined=tuple(joined),
        )
        self.ticks.append(tick)
        tokens, iteration = self.engine.step(tick)
        self.iterations.append(iteration)
        for token in tokens:
            output = self.given.setdefault(token.number, [])
            assert token.place == len(output), "no token is lost, none comes twice"
            output.append(token.token)
            if token.finish:
                self.finished[token.number] = token.finish
        self.runner.cache.move(iteration)
        self._outcome = None
        if iteration.work:
            scores = self.runner.compute(iteration.work, self.engine.texts(iteration.work))
            chosen = choose(scores, self.engine.candidates(iteration.work)) if len(scores) else []
            self._outcome = Outcome(seconds=0.01, chosen=tuple(chosen))


@pytest.fixture
def driver() -> type[Driver]:
    """To be made with a model, a policy's name, limits and a seed."""
    return Driver


@pytest.fixture
def engine_of() -> Any:
    """To be called with a model, a policy's name and limits."""
    return make_engine
