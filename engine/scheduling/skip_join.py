"""FastServe's skip-join multi-level feedback queue (arXiv 2305.05920, section 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.scheduling.mlfq import MultiLevelFeedbackQueue

if TYPE_CHECKING:
    from engine.scheduling.job import Job


class SkipJoin(MultiLevelFeedbackQueue):
    """How long a job runs is not known, but how long its first iteration takes is.

    It joins the first queue whose quantum holds that, instead of being demoted again and again;
    and is demoted to the first one below whose quantum holds its next iteration.

    The paper's released code demotes to the front of a queue and never computes the time until a
    job is scheduled next; here it goes to the back, and that time is as the paper defines it.
    """

    name = "skip-join-mlfq"

    def first_queue(self, job: Job) -> int:
        """By the time of its prefill, without what the prefix cache has."""
        prefill_s = self._profile.prefill_s(job.prompt_tokens - job.shared, job.shared)
        return self.queue_that_fits(prefill_s)

    def next_queue(self, job: Job, queue: int) -> int:
        """By the time of a decode, since a job that is demoted has done its prefill."""
        return max(queue + 1, self.queue_that_fits(self._profile.decode_s(1, job.known)))
