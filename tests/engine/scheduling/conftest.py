"""A stand-in of an engine: carries out what a scheduler decides, in an order that a test chooses,
and checks every decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from engine.scheduling.job import Job, Place
from engine.scheduling.limits import MakeRoom
from engine.scheduling.registry import Knowledge, make_policy
from engine.scheduling.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engine.scheduling.iteration import Iteration
    from engine.scheduling.limits import Limits
    from engine.scheduling.policy import Policy


def _job(
    number: int, prompt: int = 8, tokens: int = 4, *, arrived_s: float = 0.0, urgency: int = 0
) -> Job:
    """A request."""
    return Job(
        number=number,
        arrived_s=arrived_s,
        prompt_tokens=prompt,
        max_tokens=tokens,
        urgency=urgency,
    )


class Profile:
    """A token takes a second, a prefill one for every four tokens and one more."""

    def prefill_s(self, tokens: int, cached: int = 0) -> float:
        return 1.0 + tokens / 4

    def decode_s(self, batch: int, context_tokens: int) -> float:
        return 1.0


class EngineDouble:
    """Iterations take one second each by default, moves as long as the test lets them.

    Attributes:
        log: every decision, in numbers.
        finished: numbers of the jobs, in the order in which they ended.
    """

    def __init__(self, policy: Policy, limits: Limits, *, stages: int = 1) -> None:
        self.scheduler = Scheduler(policy, limits)
        self.limits = limits
        self.stages = stages
        self.now = 0.0
        self.running: list[Iteration] = []
        self.moving: list[Job] = []
        self.jobs: dict[int, Job] = {}
        self.log: list[tuple[object, ...]] = []
        self.finished: list[int] = []

    def add(self, jobs: Iterable[Job]) -> None:
        """Jobs that arrive now."""
        for each in jobs:
            self.jobs[each.number] = each
            self.scheduler.add(each, self.now)

    def withdraw(self, number: int) -> None:
        """A client hangs up."""
        self.scheduler.withdraw(number, self.now)
        self.jobs.pop(number, None)
        self.check()

    def decide(self) -> Iteration:
        """One decision, which begins."""
        flying = {work.job.number for each in self.running for work in each.work}
        iteration = self.scheduler.schedule(self.now)
        self._check_decision(iteration, flying)
        if iteration.work:
            self.running.append(iteration)
        self.moving += [*iteration.offload, *iteration.upload]
        self.log.append(_numbers(iteration))
        self.check()
        return iteration

    def move(self, at: int = 0) -> None:
        """One of the moves that go on is over."""
        self.scheduler.moved(self.moving.pop(at), self.now)
        self.check()

    def end(self, seconds: float = 1.0, ended: frozenset[int] = frozenset()) -> None:
        """The oldest iteration is over; if it waits for moves, after these."""
        iteration = self.running.pop(0)
        if iteration.waits:
            for each in [*iteration.offload, *iteration.upload]:
                if each in self.moving:
                    self.move(self.moving.index(each))
        self.now += seconds
        for each in self.scheduler.complete(iteration, seconds, self.now, ended):
            self.finished.append(each.number)
            del self.jobs[each.number]
        self.check()

    def turn(self, choose: Callable[[int], int] = lambda count: 0) -> None:
        """Decide as often as there are stages, then let something end that the test chooses."""
        while len(self.running) < self.stages and self.decide().work:
            pass
        events = len(self.moving) + bool(self.running)
        assert events or not self.jobs, "something always goes on while jobs are left"
        if not events:
            return
        at = choose(events)
        if at < len(self.moving):
            self.move(at)
        else:
            self.end()

    def drain(self, choose: Callable[[int], int] = lambda count: count - 1) -> None:
        """Until all have ended."""
        for _ in range(5_000):
            if not (self.jobs or self.running or self.moving):
                return
            self.turn(choose)
        raise AssertionError("some job never ends")

    def check(self) -> None:
        """Blocks are neither lost nor given twice, and every job is in one place."""
        pages, home = self.scheduler.pages, self.scheduler.residence
        assert pages.free >= 0
        assert pages.host_free >= 0
        assert sum(pages.device.values()) + pages.free == self.limits.blocks
        assert sum(pages.host.values()) + pages.host_free == self.limits.host_blocks
        offloading = [n for n, j in home.moving.items() if j.place is Place.OFFLOADING]
        assert pages.coming == sum(pages.device.get(number, 0) for number in offloading)
        for number, each in self.jobs.items():
            places = [home.on_device, home.on_host, home.moving]
            assert sum(number in place for place in places) == (each.place is not Place.NOWHERE)
            assert (each.place is Place.DEVICE) == (number in home.on_device)
            assert (each.place is Place.HOST) == (number in home.on_host)
            if each.place is Place.NOWHERE:
                assert not each.cached
                assert number not in pages.device
                assert number not in pages.host
            if each.place is Place.DEVICE:
                assert pages.device[number] >= self.limits.blocks_of(each.cached)

    def _check_decision(self, iteration: Iteration, flying: set[int]) -> None:
        numbers = [work.job.number for work in iteration.work]
        assert len(set(numbers)) == len(numbers) <= self.limits.max_batch
        assert not flying & set(numbers), "no job is in two iterations"
        assert not flying & {each.number for each in (*iteration.drop, *iteration.offload)}
        ranks = [self.scheduler.policy.rank(work.job) for work in iteration.work]
        assert ranks == sorted(ranks), "work is in the order of priority"
        prefills = sum(work.tokens for work in iteration.work if work.tokens > 1)
        assert prefills <= (self.limits.prefill_tokens or prefills)
        assert iteration.waits <= (self.limits.make_room is MakeRoom.REACTIVE)
        held = self.scheduler.pages.device
        for work in iteration.work:
            assert work.first == work.job.cached
            assert work.gives == (work.first + work.tokens == work.job.known)
            assert held[work.job.number] >= self.limits.blocks_of(work.first + work.tokens)


def _numbers(iteration: Iteration) -> tuple[object, ...]:
    work = tuple((each.job.number, each.first, each.tokens) for each in iteration.work)
    moved = (iteration.drop, iteration.offload, iteration.upload)
    return work, *(tuple(each.number for each in jobs) for jobs in moved)


@pytest.fixture(scope="session")
def engine_double() -> type[EngineDouble]:
    """See there."""
    return EngineDouble


@pytest.fixture(scope="session")
def job() -> Any:
    """Makes a request: its number, prompt and output tokens."""
    return _job


@pytest.fixture(scope="session")
def make(profile: Profile) -> Any:
    """Makes a policy by its name; oracles know that jobs give all their tokens, of 1 to 12."""
    knowledge = Knowledge(
        profile=profile, output_tokens=lambda job: job.max_tokens, output_lengths=range(1, 13)
    )
    return lambda name: make_policy(name, knowledge)


@pytest.fixture(scope="session")
def profile() -> Profile:
    """See there."""
    return Profile()
