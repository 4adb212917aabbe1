"""Proactive swapping: blocks are moved before they are needed (FastServe, section 4.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.scheduling.draft import Draft
    from engine.scheduling.job import Job
    from engine.scheduling.limits import Limits
    from engine.scheduling.policy import Policy
    from engine.scheduling.residence import Residence


class Lookahead:
    """Those that are scheduled last by estimate (ENST) go first, and the other way round.

    Uploads leave the idle blocks free, and one more for each job of a batch: so no upload is the
    reason why another job, which may be scheduled sooner, has to go.
    """

    def __init__(self, policy: Policy, limits: Limits, residence: Residence) -> None:
        self._policy = policy
        self._limits = limits
        self._residence = residence

    def look(self, draft: Draft, now: float) -> None:
        """Move what the draft, whose batch is full, leaves free to be moved."""
        self._offload(draft, now)
        self._upload(draft, now)

    def _offload(self, draft: Draft, now: float) -> None:
        """Until the idle blocks are free, or will be."""
        residence, pages = self._residence, self._residence.pages
        short = self._limits.idle_blocks + draft.promised - pages.free - pages.coming
        if short <= 0:
            return
        movable = [
            job
            for job in residence.on_device.values()
            if not job.in_flight
            and job.number not in draft.waiting
            and residence.host_has_room(job)
        ]
        for job in reversed(self._by_next(movable, now)):
            if short <= 0:
                return
            if residence.host_has_room(job):
                short -= pages.device[job.number]
                residence.offload(job)
                draft.offloads.append(job)

    def _upload(self, draft: Draft, now: float) -> None:
        """While more than the idle blocks are free."""
        residence, limits = self._residence, self._limits
        reserve = draft.promised + limits.idle_blocks + limits.max_batch
        if not residence.on_host or residence.pages.free - reserve < residence.least_hosted:
            return
        for job in self._by_next(list(residence.on_host.values()), now):
            if residence.needs(job) <= residence.pages.free - reserve:
                residence.upload(job)
                draft.uploads.append(job)
        residence.least_hosted = min(
            map(residence.needs, residence.on_host.values()), default=limits.blocks
        )

    def _by_next(self, jobs: list[Job], now: float) -> list[Job]:
        """Who is scheduled soonest first."""
        most = self._limits.max_batch
        next_s = {
            job.number: round(self._policy.next_scheduled_s(job, now, most), 9) for job in jobs
        }
        return sorted(jobs, key=lambda job: (next_s[job.number], job.number))
