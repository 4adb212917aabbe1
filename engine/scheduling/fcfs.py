"""First come, first served: nobody is preempted but for room, and then the newest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.scheduling.ranked import Ranked

if TYPE_CHECKING:
    from engine.scheduling.job import Job


class FirstComeFirstServed(Ranked):
    """With continuous batching (Orca, Yu et al. 2022) and paged memory (vLLM, Kwon et al. 2023)."""

    name = "fcfs"

    def key(self, job: Job) -> tuple[float, int]:
        """By arrival."""
        return job.arrived_s, job.number
