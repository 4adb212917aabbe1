"""Continuous batching that preempts at every iteration (FastServe, sections 4.1 to 4.3)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from engine.scheduling.draft import Draft
from engine.scheduling.limits import MakeRoom
from engine.scheduling.lookahead import Lookahead
from engine.scheduling.prefixes import NoPrefixes
from engine.scheduling.residence import Residence
from engine.scheduling.steadiness import Steadiness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.scheduling.iteration import Iteration
    from engine.scheduling.job import Job
    from engine.scheduling.limits import Limits
    from engine.scheduling.pages import Pages
    from engine.scheduling.policy import Policy
    from engine.scheduling.prefixes import Prefixes

_NOBODY: frozenset[int] = frozenset()


class Scheduler:
    """Events in, decisions out; ``now`` is in seconds of a clock that never goes back.

    Any number of iterations may be in flight, as in a pipeline; one that is decided has begun.
    Whatever fits alone ends some day, provided that iterations and moves do.

    Args:
        policy: the order; it hears of the jobs from this scheduler alone.
        prefixes: what need not be computed.
    """

    def __init__(self, policy: Policy, limits: Limits, prefixes: Prefixes | None = None) -> None:
        policy.within(limits)
        self.policy = policy
        self.limits = limits
        self.residence = Residence(limits)
        self._prefixes = NoPrefixes() if prefixes is None else prefixes
        self._lookahead = Lookahead(policy, limits, self.residence)
        self._steadiness = Steadiness(policy, limits, self.residence)
        self._jobs: dict[int, Job] = {}
        self._leaving: dict[int, Job] = {}
        self._in_flight = 0

    def __len__(self) -> int:
        """Jobs that are to run, or run."""
        return len(self._jobs)

    @property
    def pages(self) -> Pages:
        """The blocks and who holds them; to be read only."""
        return self.residence.pages

    def add(self, job: Job, now: float) -> None:
        """A new job, which fits alone (:meth:`~engine.scheduling.limits.Limits.fits`)."""
        assert job.number not in self._jobs, "numbers are unique"
        assert job.number not in self._leaving, "numbers are unique"
        assert self.limits.fits(job.prompt_tokens + job.max_tokens), "no job is too large to run"
        self._jobs[job.number] = job
        job.shared = min(self._prefixes.known(job), job.known - 1)
        self.policy.arrive(job, now)

    def withdraw(self, number: int, now: float) -> None:
        """A job is no longer wanted: nothing of one that has ended. What it holds is free at once;
        if it is in flight or moves, when that is over."""
        job = self._jobs.pop(number, None)
        if job is None:
            return
        self.policy.leave(job, now, finished=False)
        if job.in_flight:
            self.residence.retire(job)
        if job.in_flight or number in self.residence.moving:
            self._leaving[number] = job
        else:
            self.residence.leave(job)

    def schedule(self, now: float) -> Iteration:
        """What runs next and what is moved: both begin now. Idle where nothing can run before
        something that is in flight or moves is over."""
        draft = Draft(
            self.policy,
            self.limits,
            self.residence,
            prefixes=self._prefixes,
            others=self._in_flight > 0,
        )
        draft.fill(now)
        if self.limits.make_room is MakeRoom.PROACTIVE:
            self._lookahead.look(draft, now)
        iteration = draft.decision()
        if iteration.work:
            self._in_flight += 1
        return iteration

    def complete(
        self,
        iteration: Iteration,
        seconds: float,
        now: float,
        ended: frozenset[int] = _NOBODY,
    ) -> list[Job]:
        """An iteration that was decided is over after so many seconds.

        Args:
            ended: numbers of jobs that are to give no more tokens (a stop word, say); those that
                have given ``max_tokens`` end anyway.

        Returns:
            Those of its jobs that have finished, and hold nothing any more.
        """
        return self.complete_many(iteration, (seconds,), now, ended)

    def complete_many(
        self,
        iteration: Iteration,
        seconds: Sequence[float],
        now: float,
        ended: frozenset[int] = _NOBODY,
    ) -> list[Job]:
        """An iteration is over, and the same was repeated: not more often than :meth:`steady`
        said. ``seconds`` of each; ``now`` is the end of the last."""
        times = len(seconds)
        assert times, "it ran once at least"
        jobs = [work.job for work in iteration.work]
        assert jobs, "idle iterations do not end"
        self._in_flight -= 1
        for job, _, tokens, gives in iteration.work:
            job.in_flight = False
            job.cached += tokens
            if gives:
                job.generated += 1
        if times > 1:
            self._repeat(jobs, times - 1)
        if self._leaving:
            jobs = [job for job in jobs if not self._left(job)]
        self.policy.ran(jobs, sum(seconds), now)
        return self._finish(jobs, now, ended)

    def moved(self, job: Job, now: float) -> None:
        """An offload or upload that was decided is over."""
        self.residence.moved(job)
        if job.number in self._leaving:
            if job.in_flight:
                self.residence.retire(job)
            else:
                self._left(job)

    def steady(
        self, iteration: Iteration, now: float, most: int = sys.maxsize
    ) -> tuple[int, float]:
        """How often an iteration that was decided just now would surely be decided again after it,
        ``most`` times at the most, and before which time it must begin to be so, if no job is
        added, ends early or is withdrawn. Whoever simulates decides them at once
        (:meth:`complete_many`)."""
        if self._in_flight > 1:
            return 0, now
        return self._steadiness.further(iteration, now, most)

    def _repeat(self, jobs: list[Job], times: int) -> None:
        """So many more decodes of each."""
        pages, limits = self.pages, self.limits
        for job in jobs:
            job.cached += times
            job.generated += times
            need = limits.blocks_of(job.cached) - pages.device[job.number]
            if need > 0:
                pages.take(job.number, need)

    def _finish(self, jobs: list[Job], now: float, ended: frozenset[int]) -> list[Job]:
        finished = [job for job in jobs if job.generated >= job.max_tokens or job.number in ended]
        for job in finished:
            del self._jobs[job.number]
            self.policy.leave(job, now, finished=True)
            self.residence.leave(job)
        return finished

    def _left(self, job: Job) -> bool:
        """Whether it was withdrawn; what it holds is free now."""
        if self._leaving.pop(job.number, None) is None:
            return False
        self.residence.leave(job)
        return True
