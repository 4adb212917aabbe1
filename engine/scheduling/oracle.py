"""Bounds that only simulators can have: policies that know what nobody knows."""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from engine.scheduling.gittins import GittinsIndex
from engine.scheduling.ranked import Ranked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.scheduling.job import Job
    from engine.scheduling.profile import Profile


class ShortestRemaining(Ranked):
    """Who has least left to do runs first (SRPT): the time that it would take alone.

    A prefill that was dropped and is due again is left out, so that no job loses its place because
    it lost its room.

    Args:
        output_tokens: how many a job will have given at its end.
    """

    name = "srpt-oracle"

    def __init__(self, profile: Profile, output_tokens: Callable[[Job], int]) -> None:
        super().__init__()
        self._profile = profile
        self._output_tokens = output_tokens
        self._token_s = profile.decode_s(1, 1)

    def key(self, job: Job) -> Any:  # noqa: ANN401 - any tuple that sorts
        """By remaining seconds, then by arrival."""
        left_s = (self._output_tokens(job) - job.generated) * self._token_s
        if not job.generated:
            cached = job.cached or job.shared
            left_s += self._profile.prefill_s(job.prompt_tokens - cached, cached)
        return left_s, job.arrived_s, job.number

    def ran(self, jobs: Sequence[Job], seconds: float, now: float) -> None:
        """See :class:`~engine.scheduling.policy.Policy`, here and below."""
        super().ran(jobs, seconds, now)
        for job in jobs:
            self._ranking.update(job, self.key(job))

    def steady_iterations(self, running: Sequence[Job]) -> int:
        numbers = {job.number for job in running}
        first = islice(self._ranking, len(running))
        return sys.maxsize if all(job.number in numbers for job in first) else 0


class Gittins(Ranked):
    """The true distribution of output lengths is known, but not which job has which.

    Args:
        counts: how many jobs have so many output tokens.
        step: tokens from one new index of a job to the next.
    """

    name = "gittins-oracle"

    def __init__(self, profile: Profile, counts: Mapping[int, float], *, step: int = 8) -> None:
        super().__init__()
        self._profile = profile
        self._token_s = profile.decode_s(1, 1)
        self._index = GittinsIndex(counts)
        self._step = step
        self._prices: dict[int, float] = {}

    def key(self, job: Job) -> Any:  # noqa: ANN401 - any tuple that sorts
        """By the index, then by arrival."""
        return self._price(job), job.arrived_s, job.number

    def ran(self, jobs: Sequence[Job], seconds: float, now: float) -> None:
        """See :class:`~engine.scheduling.policy.Policy`, here and below."""
        super().ran(jobs, seconds, now)
        for job in jobs:
            self._ranking.update(job, self.key(job))

    def steady_iterations(self, running: Sequence[Job]) -> int:
        return min(self._step - 1 - job.generated % self._step for job in running)

    def _price(self, job: Job) -> float:
        if not job.generated:
            cached = job.cached or job.shared
            prefill_s = self._profile.prefill_s(job.prompt_tokens - cached, cached)
            return self._index.price(0, prefill_s / self._token_s)
        attained = job.generated - job.generated % self._step
        price = self._prices.get(attained)
        if price is None:
            price = self._prices[attained] = self._index.price(attained)
        return price
