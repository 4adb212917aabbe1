"""Short prompts first: who waits for its first token with the least left to compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.scheduling.ranked import Ranked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.scheduling.job import Job


class ShortFirst(Ranked):
    """Whoever has begun to answer goes on, in the order of arrival; the others come by what is left
    of their prompts, so that a short one overtakes a long one even between two of its chunks. Long
    prompts may starve.
    """

    name = "short-first"

    def key(self, job: Job) -> tuple[bool, float, int]:
        """By what is left of the prompt, or by arrival."""
        if job.generated:
            return False, job.arrived_s, job.number
        return True, job.prompt_tokens - job.cached, job.number

    def ran(self, jobs: Sequence[Job], seconds: float, now: float) -> None:
        """See :class:`~engine.scheduling.policy.Policy`."""
        super().ran(jobs, seconds, now)
        for job in jobs:
            if job.generated <= 1:
                self._ranking.update(job, self.key(job))
