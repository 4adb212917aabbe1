"""Our default: learns how long answers are, and lets nobody pay too much for it."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from engine.scheduling.hazards import Hazards
from engine.scheduling.promises import Promises
from engine.scheduling.ranked import Ranked
from engine.scheduling.virtual_fcfs import VirtualFcfs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.scheduling.job import Job
    from engine.scheduling.limits import Limits
    from engine.scheduling.profile import Profile

_SLACK_S = 1e-9
_ENOUGH = 10
"""Iterations to observe before they say how fast tokens are."""
_CAUTION = 0.85
"""Of what a job is expected to give still, in the virtual engine: near capacity, a few percent too
much there would make its queue, and so all promises, twice too long."""


class _Standing:
    """What is known of a job.

    Attributes:
        kind, step: see :class:`Hazards`.
        given: tokens when it was last looked at.
        first_s: its prefill; 0.0 when that is done.
        call_s: when it is looked at, whether it would miss what it was promised.
        late: whether it would; then ``due_s`` is when it should have ended.
    """

    __slots__ = (
        "call_s",
        "due_s",
        "first_s",
        "given",
        "job",
        "kind",
        "late",
        "long",
        "ran",
        "step",
    )

    def __init__(self, job: Job, kind: int, step: int, *, long: bool) -> None:
        self.job = job
        self.kind = kind
        self.step = step
        self.long = long
        self.given = job.generated
        self.ran = False
        self.late = False
        self.first_s = 0.0
        self.due_s = self.call_s = math.inf


class Adaptive(Ranked):
    """By the Gittins index in seconds of the engine's time, over learned chances to end.

    A prefill takes the whole engine, a token of an answer only its part of an iteration: the
    constant part over the batch that is usual while others wait, and what its own context adds.
    So a long prompt counts for much more than the tokens of its iteration would say.

    As in :class:`Promises`, each job has a time when it should be done. Who might miss it if it
    did not run now is late: those go first, in the order of their times.

    Ranks change in steps of a fifth of what a job has given, and a prefill that was done is not
    counted again: so those that run are not displaced for little. New estimates move only those
    that have not run yet; what ran gets a new rank with a token, and only then a worse one.
    """

    name = "adaptive"

    def __init__(self, profile: Profile) -> None:
        super().__init__()
        self._profile = profile
        self._fcfs: VirtualFcfs | None = None
        self._hazards = Hazards()
        self._promises = Promises()
        self._standings: dict[int, _Standing] = {}
        self._calls: list[tuple[float, int]] = []  # when a job may be late, and its number
        self._version = 0
        self._iterations = self._batches = self._contexts = 0
        self._iteration_s = self._share_s = profile.decode_s(1, 1)
        self._context_s = 0.0  # that a token of context adds
        self._no_prefill_s = profile.prefill_s(1)

    def within(self, limits: Limits) -> None:
        """See :class:`~engine.scheduling.policy.Policy`, here and below."""
        self._fcfs = VirtualFcfs(self._profile, limits, self._length)

    def arrive(self, job: Job, now: float) -> None:
        self._look_at_fcfs(now)
        hazards = self._hazards
        standing = _Standing(
            job,
            hazards.class_of(job.prompt_tokens),
            hazards.step_of(job.generated),
            long=self._promises.is_long(job.prompt_tokens),
        )
        self._standings[job.number] = standing
        if not job.generated:
            prefill_s = self._profile.prefill_s(job.prompt_tokens - job.shared, job.shared)
            standing.first_s = max(0.0, prefill_s - self._no_prefill_s)
        if self._fcfs is not None:
            self._fcfs.arrive(job)
        self._call(standing)
        super().arrive(job, now)

    def ran(self, jobs: Sequence[Job], seconds: float, now: float) -> None:
        super().ran(jobs, seconds, now)
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
            self._call(standing)
            self._ranking.update(job, self.key(job))

    def leave(self, job: Job, now: float, *, finished: bool) -> None:
        standing = self._standings.pop(job.number)
        self._look_at_fcfs(now)
        super().leave(job, now, finished=finished)
        if finished:
            self._hazards.ended(standing.kind, standing.step, job.generated)
            if self._hazards.version != self._version:
                self._renew()

    def order(self, now: float) -> Iterable[Job]:
        calls = self._calls
        while calls and calls[0][0] <= now:
            when, number = heappop(calls)
            standing = self._standings.get(number)
            if standing is None or standing.late or standing.call_s != when:
                continue
            self._call(standing)
            if standing.call_s <= now:
                standing.late = True
                self._ranking.update(standing.job, self.key(standing.job))
        return self._ranking

    def steady_s(self, running: Sequence[Job], now: float) -> float:
        return max(0.0, self._calls[0][0] - now - 2 * _SLACK_S) if self._calls else math.inf

    def steady_iterations(self, running: Sequence[Job]) -> int:
        edges, standings = self._hazards.edges, self._standings
        return min(edges[standings[job.number].step + 1] - 1 - job.generated for job in running)

    def key(self, job: Job) -> Any:  # noqa: ANN401 - any tuple that sorts
        """The late by when they are due, then by seconds per job that ends."""
        standing = self._standings[job.number]
        if standing.late:
            return 0, standing.due_s, job.number
        token_s = self._token_s(standing)
        first = standing.first_s / token_s
        price = self._hazards.price(standing.kind, standing.step, first)
        return 1, price * token_s, job.arrived_s, job.number

    def _token_s(self, standing: _Standing) -> float:
        """Of the engine's time, for one of the tokens that it gives from now on."""
        given = self._hazards.edges[standing.step]
        more = self._hazards.left(standing.kind, standing.step) / 2
        context = standing.job.prompt_tokens + given + more
        return self._share_s + self._context_s * context

    def _call(self, standing: _Standing) -> None:
        """Look at it when it may be late, by what is promised and known now."""
        if standing.late:
            return
        job = standing.job
        standing.due_s = job.arrived_s + self._promises.allowed_s(long=standing.long)
        most = self._hazards.most(standing.kind, standing.step)
        call_s = standing.due_s - standing.first_s - most * self._iteration_s
        if call_s != standing.call_s:
            standing.call_s = call_s
            if call_s < math.inf:
                heappush(self._calls, (call_s, job.number))

    def _look_at_fcfs(self, now: float) -> None:
        if self._fcfs is None:
            return
        ended = self._fcfs.advance(now)
        if not self._standings:
            ended += [(job, now) for job in self._fcfs.finish(now)]
            self._calls.clear()
        if self._version > 1:  # before, too little is known of those that have not ended
            for job, end_s in ended:
                self._promises.ended(job.prompt_tokens, end_s - job.arrived_s)

    def _length(self, job: Job) -> float:
        standing = self._standings.get(job.number)
        if standing is None:
            return job.generated
        more = self._hazards.length(standing.kind, job.generated) - job.generated
        return job.generated + _CAUTION * more

    def _observe(self, jobs: Sequence[Job]) -> None:
        """How full iterations are while others wait. In whole numbers, so that it is the same
        whether several iterations are told at once or one by one."""
        times = max(job.generated - self._standings[job.number].given for job in jobs)
        batch, context = len(jobs), sum(job.cached for job in jobs)
        self._iterations += times
        self._batches += times * batch
        self._contexts += times * context - batch * (times * (times - 1) // 2)

    def _renew(self) -> None:
        """There are new estimates."""
        self._version = self._hazards.version
        if self._iterations >= _ENOUGH:
            self._measure()
        for standing in self._standings.values():
            self._call(standing)
            if not standing.ran:
                self._ranking.update(standing.job, self.key(standing.job))

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
