"""Our default: learns how long answers are, and lets nobody pay too much for it."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from engine.scheduling.hazards import Hazards
from engine.scheduling.promises import Promises
from engine.scheduling.ranking import Ranking

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.scheduling.job import Job
    from engine.scheduling.profile import Profile

_SLACK_S = 1e-9
_ENOUGH = 10
"""Iterations to observe before they say how fast tokens are."""


class _Standing:
    """What is known of a job.

    Attributes:
        kind, step: see :class:`Hazards`.
        given: tokens when it was last looked at.
        first_s: its prefill; 0.0 when that is done.
        work_s: of the engine's time that it is expected to take still.
        due_s: when it should end at the latest.
        call_s: when it is looked at, whether it would miss that.
    """

    __slots__ = (
        "call_s",
        "due_s",
        "first_s",
        "given",
        "job",
        "kind",
        "late",
        "ran",
        "step",
        "work_s",
    )

    def __init__(self, job: Job, kind: int, step: int) -> None:
        self.job = job
        self.kind = kind
        self.step = step
        self.given = job.generated
        self.ran = False
        self.late = False
        self.first_s = 0.0
        self.work_s = 0.0
        self.due_s = self.call_s = math.inf


class Adaptive:
    """By the Gittins index in seconds of the engine's time, over learned chances to end.

    A prefill takes the whole engine, a token of an answer only its part of an iteration: the
    constant part over the batch that is usual while others wait, and what its own context adds.
    So a long prompt counts for much more than the tokens of its iteration would say.

    As in :class:`Promises`, each job has a time when it should be done. Who would miss it if it
    did not run now is late: those go first, in the order of their times.

    Ranks change in steps of a fifth of what a job has given, and a prefill that was done is not
    counted again: so those that run are not displaced for little. New estimates move only those
    that have not run yet; what ran gets a new rank with a token, and only then a worse one.
    """

    name = "adaptive"

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._hazards = Hazards()
        self._promises = Promises()
        self._ranking = Ranking()
        self._standings: dict[int, _Standing] = {}
        self._calls: list[tuple[float, int]] = []  # when a job may be late, and its number
        self._work_s = 0.0
        self._version = 0
        self._iterations = self._batches = self._contexts = 0
        self._iteration_s = self._share_s = profile.decode_s(1, 1)
        self._context_s = 0.0  # that a token of context adds
        self._no_prefill_s = profile.prefill_s(1)

    def arrive(self, job: Job, now: float) -> None:
        """See :class:`~engine.scheduling.policy.Policy`, here and below."""
        hazards = self._hazards
        kind = hazards.class_of(job.prompt_tokens)
        standing = _Standing(job, kind, hazards.step_of(job.generated))
        self._standings[job.number] = standing
        if not job.generated:
            prefill_s = self._profile.prefill_s(job.prompt_tokens - job.shared, job.shared)
            standing.first_s = max(0.0, prefill_s - self._no_prefill_s)
        self._weigh(standing)
        alone_s = self._alone_s(standing)
        fcfs_s = max(self._work_s, alone_s)
        standing.due_s = now + self._promises.make(kind, fcfs_s, learnt=self._version > 1)
        self._call(standing)
        self._ranking.add(job, self._key(standing))

    def ran(self, jobs: Sequence[Job], seconds: float, now: float) -> None:
        hazards, standings = self._hazards, self._standings
        if 0 < len(jobs) < len(self._ranking):
            self._observe(jobs)
        for job in jobs:
            standing = standings[job.number]
            standing.ran = True
            if job.generated == standing.given:
                continue  # a prefill that goes on
            standing.given = job.generated
            if job.generated < hazards.edges[standing.step + 1] and not standing.first_s:
                continue
            standing.first_s = 0.0
            step = hazards.step_of(job.generated)
            hazards.passed(standing.kind, standing.step, step)
            standing.step = step
            self._weigh(standing)
            self._call(standing)
            self._ranking.update(job, self._key(standing))

    def leave(self, job: Job, now: float, *, finished: bool) -> None:
        standing = self._standings.pop(job.number)
        self._ranking.remove(job)
        self._work_s = self._work_s - standing.work_s if self._standings else 0.0
        if finished:
            self._hazards.ended(standing.kind, standing.step, job.generated)
            if self._hazards.version != self._version:
                self._renew(now)

    def order(self, now: float) -> Iterable[Job]:
        calls = self._calls
        while calls and calls[0][0] <= now:
            _, number = heappop(calls)
            standing = self._standings.get(number)
            if standing is None or standing.late:
                continue
            standing.call_s = math.inf
            if standing.due_s - self._alone_s(standing) > now:
                self._call(standing)
                continue
            standing.late = True
            self._ranking.update(standing.job, self._key(standing))
        return self._ranking

    def rank(self, job: Job) -> Any:  # noqa: ANN401 - any tuple that sorts
        return self._ranking.key(job)

    def next_scheduled_s(self, job: Job, now: float, max_batch: int) -> float:
        """As if all took as long; those ahead share the engine already in their expected work."""
        return self._ranking.index(job) * max(0.0, self._work_s) / len(self._standings)

    def steady_s(self, running: Sequence[Job], now: float) -> float:
        return max(0.0, self._calls[0][0] - now - 2 * _SLACK_S) if self._calls else math.inf

    def steady_iterations(self, running: Sequence[Job]) -> int:
        edges, standings = self._hazards.edges, self._standings
        return min(edges[standings[job.number].step + 1] - 1 - job.generated for job in running)

    def _key(self, standing: _Standing) -> Any:  # noqa: ANN401 - any tuple that sorts
        """The late by when they are due, then by seconds per job that ends."""
        number = standing.job.number
        if standing.late:
            return 0, standing.due_s, number
        token_s = self._token_s(standing)
        first = standing.first_s / token_s
        price = self._hazards.price(standing.kind, standing.step, first)
        return 1, price * token_s, standing.job.arrived_s, number

    def _token_s(self, standing: _Standing) -> float:
        """Of the engine's time, for one of the tokens that it gives from now on."""
        given = self._hazards.edges[standing.step]
        more = self._hazards.left(standing.kind, standing.step) / 2
        context = standing.job.prompt_tokens + given + more
        return self._share_s + self._context_s * context

    def _weigh(self, standing: _Standing) -> None:
        """What it is expected to take, and so all together."""
        tokens = self._hazards.left(standing.kind, standing.step)
        work_s = tokens * self._token_s(standing) + standing.first_s
        self._work_s += work_s - standing.work_s
        standing.work_s = work_s

    def _alone_s(self, standing: _Standing) -> float:
        """Until it ends, if it runs in every iteration from now on."""
        tokens = self._hazards.left(standing.kind, standing.step)
        return standing.first_s + tokens * self._iteration_s

    def _call(self, standing: _Standing) -> None:
        """Look at it when it may be late: sooner than was said where it turns out longer."""
        latest_s = standing.due_s - self._alone_s(standing)
        if latest_s < standing.call_s and not standing.late:
            standing.call_s = latest_s
            heappush(self._calls, (latest_s, standing.job.number))

    def _observe(self, jobs: Sequence[Job]) -> None:
        """How full iterations are while others wait. In whole numbers, so that it is the same
        whether several iterations are told at once or one by one."""
        times = max(job.generated - self._standings[job.number].given for job in jobs)
        batch, context = len(jobs), sum(job.cached for job in jobs)
        self._iterations += times
        self._batches += times * batch
        self._contexts += times * context - batch * (times * (times - 1) // 2)

    def _renew(self, now: float) -> None:
        """There are new estimates."""
        again = self._version < 2
        self._version = self._hazards.version
        if self._iterations >= _ENOUGH:
            self._measure()
        for standing in self._standings.values():
            self._weigh(standing)
            if not standing.ran:
                self._ranking.update(standing.job, self._key(standing))
        if again:
            self._promise_again(now)

    def _measure(self) -> None:
        """By the profile, at the batch and the context that were usual; half is forgotten."""
        batch, context = self._batches / self._iterations, self._contexts / self._iterations
        whole, some = max(1, round(batch)), max(1, round(context))
        self._iteration_s = self._profile.decode_s(whole, some)
        added_s = self._profile.decode_s(whole, 2 * some) - self._iteration_s
        self._context_s = max(0.0, added_s / some)
        self._share_s = max(self._iteration_s - self._context_s * some, 1e-9) / batch
        self._iterations //= 2
        self._batches //= 2
        self._contexts //= 2

    def _promise_again(self, now: float) -> None:
        """Nothing was known when those that are here came: their times may be far too late."""
        for standing in self._standings.values():
            alone_s = self._alone_s(standing)
            allowed_s = self._promises.bound(max(self._work_s, alone_s))
            standing.due_s = min(standing.due_s, now + allowed_s)
            self._call(standing)
