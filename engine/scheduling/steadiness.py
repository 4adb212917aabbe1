"""For how long a scheduler would decide the same again."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from engine.scheduling.limits import MakeRoom

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.scheduling.iteration import Iteration
    from engine.scheduling.job import Job
    from engine.scheduling.limits import Limits
    from engine.scheduling.policy import Policy
    from engine.scheduling.residence import Residence


class Steadiness:
    """Simulators skip decisions by this, so it never says more than is sure.

    While the same jobs decode, the order is the same, and there are blocks for them without making
    room, every decision finds what the last one found: who waits for room still does, because free
    blocks only become fewer, and who ranks below it holds no more than before.
    """

    def __init__(self, policy: Policy, limits: Limits, residence: Residence) -> None:
        self._policy = policy
        self._limits = limits
        self._residence = residence

    def further(self, iteration: Iteration, now: float, most: int) -> tuple[int, float]:
        """Times after this one, which alone is in flight, and the time before which each begins."""
        if not self._repeats(iteration):
            return 0, now
        jobs = [work.job for work in iteration.work]
        times = min(job.max_tokens - job.generated for job in jobs) - 1
        times = min(times, most, self._policy.steady_iterations(jobs))
        if times <= 0:
            return 0, now
        return self._with_blocks(jobs, times), now + self._policy.steady_s(jobs, now)

    def _repeats(self, iteration: Iteration) -> bool:
        """Whether nothing but decodes goes on."""
        if not iteration.work or iteration.drop or iteration.offload or iteration.upload:
            return False
        if self._residence.moving:
            return False
        return all(work.tokens == 1 and work.job.decodes for work in iteration.work)

    def _with_blocks(self, jobs: Sequence[Job], times: int) -> int:
        """As many of these times as there are blocks for."""
        budget = self._budget()
        if self._growth(jobs, times) <= budget:
            return times
        return bisect_right(range(times), budget, key=lambda each: self._growth(jobs, each)) - 1

    def _growth(self, jobs: Sequence[Job], times: int) -> int:
        """Blocks that they take for so many more tokens each."""
        held, size = self._residence.pages.device, self._limits.block_tokens
        growth = 0
        for job in jobs:
            need = -(-(job.prompt_tokens + job.generated + times) // size) - held[job.number]
            if need > 0:
                growth += need
        return growth

    def _budget(self) -> int:
        """Free blocks that can be taken before anything moves."""
        free, limits = self._residence.pages.free, self._limits
        if limits.make_room is not MakeRoom.PROACTIVE or not self._others_can_move():
            return free
        return max(0, free - limits.idle_blocks)

    def _others_can_move(self) -> bool:
        residence = self._residence
        return any(
            not job.in_flight and residence.host_has_room(job)
            for job in residence.on_device.values()
        )
