"""A policy whose order changes only when jobs do."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from engine.scheduling.ranking import Ranking

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.scheduling.job import Job
    from engine.scheduling.limits import Limits


class Ranked(ABC):
    """What such policies share; each says its keys, and updates those of jobs that ran.

    As nothing is known of how long jobs run, the estimate of when one is scheduled supposes that
    all run as long as those that have finished did.
    """

    name = "ranked"

    def __init__(self) -> None:
        self._ranking = Ranking()
        self._ran_s = 0.0
        self._finished = 0

    @abstractmethod
    def key(self, job: Job) -> Any:  # noqa: ANN401 - any tuple that sorts
        """Where a job that arrives belongs: no two jobs have the same."""

    def within(self, limits: Limits) -> None:  # noqa: B027 - most orders do not depend on it
        """See :class:`~engine.scheduling.policy.Policy`, here and below."""

    def arrive(self, job: Job, now: float) -> None:
        self._ranking.add(job, self.key(job))

    def ran(self, jobs: Sequence[Job], seconds: float, now: float) -> None:
        self._ran_s += seconds * len(jobs)

    def leave(self, job: Job, now: float, *, finished: bool) -> None:
        self._ranking.remove(job)
        self._finished += finished

    def order(self, now: float) -> Iterable[Job]:
        return self._ranking

    def rank(self, job: Job) -> Any:  # noqa: ANN401
        return self._ranking.key(job)

    def next_scheduled_s(self, job: Job, now: float, max_batch: int) -> float:
        rounds = self._ranking.index(job) / max_batch
        return rounds * (self._ran_s / self._finished if self._finished else 1.0)

    def steady_s(self, running: Sequence[Job], now: float) -> float:
        return math.inf

    def steady_iterations(self, running: Sequence[Job]) -> int:
        return sys.maxsize
