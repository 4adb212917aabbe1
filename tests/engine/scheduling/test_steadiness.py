"""Decisions that are skipped would have been the same: every token has the same time."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scheduling.limits import Limits, MakeRoom
from engine.scheduling.registry import POLICIES
from engine.scheduling.scheduler import Scheduler

MOVE_S = 0.7


class Clockwork:
    """One stage under a simulated clock; each move takes as long, iterations by their tokens."""

    def __init__(self, scheduler: Scheduler, jobs: list[Any], *, fast: bool) -> None:
        self.scheduler = scheduler
        self.arrivals = sorted(jobs, key=lambda job: job.arrived_s)
        self.left = len(jobs)
        self.fast = fast
        self.now = 0.0
        self.moves: list[tuple[float, Any]] = []
        self.tokens: list[tuple[float, tuple[int, ...]]] = []
        self.decisions = 0

    def run(self) -> list[tuple[float, tuple[int, ...]]]:
        """Until all have ended; when which jobs were in an iteration."""
        while self.left:
            self.hear()
            iteration = self.scheduler.schedule(self.now)
            self.decisions += 1
            moves = [*iteration.offload, *iteration.upload]
            self.moves += [(self.now + MOVE_S, job) for job in moves]
            if iteration.waits:
                self.now += MOVE_S
                self.hear(arrivals=False)
            if iteration.work:
                self.work(iteration)
            else:
                self.now = self.next_event()
        return self.tokens

    def next_event(self) -> float:
        times = [at for at, _ in self.moves] + [job.arrived_s for job in self.arrivals[:1]]
        return min(times, default=float("inf"))

    def hear(self, *, arrivals: bool = True) -> None:
        for at, job in list(self.moves):
            if at <= self.now:
                self.moves.remove((at, job))
                self.scheduler.moved(job, self.now)
        while arrivals and self.arrivals and self.arrivals[0].arrived_s <= self.now:
            self.scheduler.add(self.arrivals.pop(0), self.now)

    def work(self, iteration: Any) -> None:
        times, until = self.scheduler.steady(iteration, self.now) if self.fast else (0, 0.0)
        numbers = tuple(work.job.number for work in iteration.work)
        context = sum(work.first + work.tokens for work in iteration.work)
        seconds: list[float] = []
        while not seconds or (times >= len(seconds) and self.now < min(until, self.next_event())):
            seconds.append(0.1 + 0.003 * context + 0.01 * sum(w.tokens for w in iteration.work))
            context += len(numbers)
            self.now += seconds[-1]
            self.tokens.append((self.now, numbers))
        self.left -= len(self.scheduler.complete_many(iteration, seconds, self.now))


@settings(deadline=None, max_examples=50)
@given(
    name=st.sampled_from(sorted(POLICIES)),
    sizes=st.lists(
        st.tuples(st.integers(1, 20), st.integers(1, 30), st.floats(0, 10)), min_size=1, max_size=8
    ),
    limits=st.builds(
        Limits,
        max_batch=st.integers(1, 5),
        blocks=st.integers(13, 60),
        block_tokens=st.sampled_from([4, 16]),
        host_blocks=st.sampled_from([0, 10, 100]),
        prefill_tokens=st.sampled_from([None, 5]),
        make_room=st.sampled_from(MakeRoom),
        idle_blocks=st.integers(0, 8),
    ),
)
def test_skipping_changes_nothing(
    make: Any, job: Any, name: str, sizes: list[tuple[int, int, float]], limits: Limits
) -> None:
    traces = []
    for fast in (False, True):
        jobs = [
            job(number, prompt, tokens, arrived_s=arrived_s, urgency=number % 2)
            for number, (prompt, tokens, arrived_s) in enumerate(sizes)
        ]
        traces.append(Clockwork(Scheduler(make(name), limits), jobs, fast=fast).run())
    assert traces[0] == traces[1]


def test_a_lone_job_is_decided_twice(make: Any, job: Any) -> None:
    """Its prefill, and all its decodes."""
    scheduler = Scheduler(make("fcfs"), Limits(max_batch=4, blocks=100))
    clockwork = Clockwork(scheduler, [job(0, 10, 500)], fast=True)
    assert len(clockwork.run()) == 500
    assert clockwork.decisions == 2
