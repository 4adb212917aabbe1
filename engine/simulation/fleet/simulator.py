"""A fleet's manager under a simulated clock: requests arrive, groups' iterations take what they
cost."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from engine.scheduling.job import Job
from engine.simulation.serve.life import Life, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.elastic.iteration import GroupIteration
    from engine.elastic.manager import Manager
    from engine.simulation.serve.request import Workload

_NEVER = float("inf")


class FleetSimulator:
    """One fleet that serves one workload once.

    As in a live one, whatever has ended or come at one time is told before the next decision. No
    policy sees how long an output is: all are told what memory allows.

    Args:
        seconds: what an iteration takes; by default what was predicted.
        deadline_s: the latest end; what is not done then stays unfinished.
        began: told of every iteration when it begins, and when that is.
    """

    def __init__(
        self,
        manager: Manager,
        workload: Workload,
        *,
        seconds: Callable[[GroupIteration], float] | None = None,
        deadline_s: float = _NEVER,
        began: Callable[[GroupIteration, float], None] | None = None,
    ) -> None:
        most = sum(manager.pools.slots.values())
        self._manager = manager
        self._seconds = seconds or _predicted
        self._lives = [Life(request=request) for request in workload.requests]
        self._jobs = [
            Job(
                number=number,
                arrived_s=each.arrival_s,
                prompt_tokens=each.prompt_tokens,
                max_tokens=most - each.prompt_tokens,
            )
            for number, each in enumerate(workload.requests)
        ]
        self._arrivals = [*(each.arrival_s for each in workload.requests), _NEVER]
        self._deadline_s = deadline_s
        self._began = began
        self._now = 0.0
        self._arrived = 0
        self._unfinished = len(self._lives)
        self._ends: list[tuple[float, int, float, GroupIteration]] = []
        self._iterations = 0
        self._busy_s = 0.0

    def run(self) -> Outcome:
        """Until all requests are done, or the deadline."""
        while self._unfinished:
            for iteration in self._manager.schedule(self._now).iterations:
                self._begin(iteration)
            happens_s = min(
                self._arrivals[self._arrived], self._ends[0][0] if self._ends else _NEVER
            )
            assert happens_s < _NEVER, "whatever fits alone runs some day"
            if happens_s > self._deadline_s:
                self._now = self._deadline_s
                break
            self._now = happens_s
            self._tell()
        return Outcome(
            policy=self._manager.fleet.name,
            lives=self._lives,
            end_s=self._now,
            iterations=self._iterations,
            busy_s=self._busy_s,
            waited_s=0.0,
            swapped_bytes=0,
        )

    def _begin(self, iteration: GroupIteration) -> None:
        seconds = self._seconds(iteration)
        heappush(self._ends, (self._now + seconds, iteration.number, seconds, iteration))
        if self._began is not None:
            self._began(iteration, self._now)

    def _tell(self) -> None:
        """All that has happened by now: ends first."""
        while self._ends and self._ends[0][0] <= self._now:
            _, _, seconds, iteration = heappop(self._ends)
            self._iterations += 1
            self._busy_s += seconds * iteration.dop / len(self._manager.pools.slots)
            self._manager.complete(iteration, seconds, self._now, self._count(iteration))
        while self._arrivals[self._arrived] <= self._now:
            self._manager.add(self._jobs[self._arrived], self._now)
            self._arrived += 1

    def _count(self, iteration: GroupIteration) -> frozenset[int]:
        """What it gave to each; the numbers of those that have all now."""
        ended = []
        lives, now = self._lives, self._now
        for job, first, tokens, gives in iteration.work:
            life = lives[job.number]
            if first < life.computed:
                life.recomputed += min(life.computed, first + tokens) - first
            if not gives:
                life.computed = max(life.computed, first + tokens)
                continue
            if life.first_s is None:
                life.first_s = now
            life.last_s = now
            life.computed = max(life.computed, first + tokens)
            if job.generated + 1 >= life.request.output_tokens:
                life.finished = True
                ended.append(job.number)
        self._unfinished -= len(ended)
        return frozenset(ended)


def _predicted(iteration: GroupIteration) -> float:
    return iteration.predicted_s
