"""What clients ask for: the more urgent first, and those that run are displaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.scheduling.ranked import Ranked

if TYPE_CHECKING:
    from engine.scheduling.job import Job


class Priority(Ranked):
    """By urgency, then by arrival."""

    name = "priority"

    def key(self, job: Job) -> tuple[int, float, int]:
        """Less is sooner."""
        return job.urgency, job.arrived_s, job.number
