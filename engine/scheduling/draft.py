"""One decision in the making."""

from __future__ import annotations

import sys
from enum import Enum, auto
from typing import TYPE_CHECKING

from engine.scheduling.iteration import Iteration, Work
from engine.scheduling.job import Place
from engine.scheduling.limits import MakeRoom

if TYPE_CHECKING:
    from engine.scheduling.job import Job
    from engine.scheduling.limits import Limits
    from engine.scheduling.policy import Policy
    from engine.scheduling.prefixes import Prefixes
    from engine.scheduling.residence import Residence

_DEVICE, _HOST, _NOWHERE = Place.DEVICE, Place.HOST, Place.NOWHERE
_UPLOADING = Place.UPLOADING


class _Fit(Enum):
    """Whether a job can have blocks."""

    NOW = auto()
    LATER = auto()
    """Enough are on their way to the host, and promised to it."""
    NEVER = auto()
    """Not before jobs that rank above it end."""


class Draft:
    """A batch, filled in the order of the policy.

    A job that has no room stops the walk: no job further down begins before it. Those further down
    that are on the device go on, in the room that nobody above them can use.

    Args:
        prefixes: what need not be computed of jobs that begin.
        others: whether other iterations are in flight.

    Attributes:
        promised: blocks of the device that jobs wait for.
        waiting: the numbers of these jobs.
    """

    def __init__(
        self,
        policy: Policy,
        limits: Limits,
        residence: Residence,
        *,
        prefixes: Prefixes,
        others: bool,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._residence = residence
        self._pages = residence.pages
        self._prefixes = prefixes
        self._others = others
        self._joins = not (limits.whole_batches and residence.on_device)
        self._budget = sys.maxsize if limits.prefill_tokens is None else limits.prefill_tokens
        self._block_tokens = limits.block_tokens
        self._work: list[Work] = []
        self._candidates: list[Job] | None = None
        self._drains = False
        self._waits = False
        self.dropped: list[Job] = []
        self.offloads: list[Job] = []
        self.uploads: list[Job] = []
        self.promised = 0
        self.waiting: set[int] = set()

    def fill(self, now: float) -> None:
        """Take who deserves to run. Those that move or wait have a claim to the batch as well;
        when there are as many as it holds, nobody further down is helped."""
        most = self._limits.max_batch
        claims = 0
        for job in self._policy.order(now):
            if job.in_flight:
                continue
            if not self._consider(job):
                break
            claims += 1
            if claims == most:
                break
        if len(self._work) < most and not self._drains:
            self._go_on()

    def decision(self) -> Iteration:
        """What was decided."""
        return Iteration(
            work=tuple(self._work),
            drop=tuple(self.dropped),
            offload=tuple(self.offloads),
            upload=tuple(self.uploads),
            waits=self._waits,
        )

    def _consider(self, job: Job) -> bool:
        """False where the walk ends."""
        place = job.place
        if place is _DEVICE:
            return self._run(job)
        if place is _NOWHERE:
            return self._begin(job)
        if place is _HOST:
            return self._bring(job)
        return place is _UPLOADING  # where one has just lost its room, none further down finds any

    def _run(self, job: Job) -> bool:
        """A job on the device; it may need a block more."""
        known = job.prompt_tokens + job.generated
        due = known - job.cached
        if due > 1 and not self._budget:
            return False
        need = -(-known // self._block_tokens) - self._pages.device[job.number]
        if need > 0:
            fit = self._room(job, need)
            if fit is not _Fit.NOW:
                return fit is _Fit.LATER
            self._pages.take(job.number, need)
        self._add(job, due)
        return True

    def _begin(self, job: Job) -> bool:
        """A job that has nothing; it takes blocks for its whole prompt."""
        if not self._budget or not self._joins:
            return False
        fit = self._room(job, self._with_watermark(job))
        if fit is _Fit.NOW:
            self._residence.begin(job)
            job.cached = job.shared = min(self._prefixes.share(job), job.known - 1)
            self._add(job, job.due)
        return fit is not _Fit.NEVER

    def _bring(self, job: Job) -> bool:
        """A job on the host; it runs at once only where the iteration waits for it."""
        at_once = self._limits.make_room is MakeRoom.REACTIVE
        if at_once and job.due > 1 and not self._budget:
            return False
        fit = self._room(job, self._with_watermark(job))
        if fit is _Fit.NOW:
            self._residence.upload(job)
            self.uploads.append(job)
            if at_once:
                self._waits = True
                self._add(job, job.due)
        return fit is not _Fit.NEVER

    def _add(self, job: Job, due: int) -> None:
        """It is in the batch: for a decode, or as much of a prefill as may be."""
        tokens = due
        if due > 1:
            tokens = min(due, self._budget)
            self._budget -= tokens
        job.in_flight = True
        self._work.append(Work(job, job.cached, tokens, tokens == due))

    def _go_on(self) -> None:
        """Jobs on the device run too where that takes no blocks from those above."""
        device, pages = self._residence.on_device, self._pages
        for job in sorted(
            (job for job in device.values() if not job.in_flight), key=self._policy.rank
        ):
            due = job.due
            need = self._limits.blocks_of(job.known) - pages.device[job.number]
            if (due > 1 and not self._budget) or need > min(pages.free, self._spare):
                continue
            if need > 0:
                pages.take(job.number, need)
            self._add(job, due)
            if len(self._work) == self._limits.max_batch:
                return

    @property
    def _spare(self) -> int:
        """Blocks of the device, free or soon, that are promised to nobody."""
        return self._pages.free + self._pages.coming - self.promised

    def _with_watermark(self, job: Job) -> int:
        """Blocks that must be free for it to begin or come back: all at most."""
        limits = self._limits
        return min(self._residence.needs(job) + limits.watermark, limits.blocks)

    def _room(self, job: Job, need: int) -> _Fit:
        """See to it that a job can have so many blocks."""
        spare = self._spare
        if need > spare:
            victims = self._victims(job, need - spare)
            if not victims:
                self._drains = self._others and self._would_fit(job, need)
                return _Fit.NEVER
            for victim in victims:
                self._put_out(victim)
        if need <= self._pages.free:
            return _Fit.NOW
        self.promised += need
        self.waiting.add(job.number)
        return _Fit.LATER

    def _victims(self, job: Job, short: int) -> list[Job]:
        """Those of the lowest rank, below the job, that hold so many blocks; none if too few."""
        if self._candidates is None:
            device = self._residence.on_device.values()
            idle = (each for each in device if not each.in_flight)
            self._candidates = sorted(idle, key=self._policy.rank)
        candidates, rank = self._candidates, self._policy.rank
        floor = rank(job)
        for count, victim in enumerate(reversed(candidates), 1):
            if rank(victim) <= floor:
                return []
            short -= self._pages.device[victim.number]
            if short <= 0:
                found = candidates[-count:]
                del candidates[-count:]
                return found[::-1]
        return []

    def _put_out(self, victim: Job) -> None:
        """Its blocks are, or will be, free."""
        limits = self._limits
        if limits.make_room is MakeRoom.RECOMPUTE or not self._residence.host_has_room(victim):
            self._residence.drop(victim)
            self.dropped.append(victim)
            return
        self._residence.offload(victim)
        self.offloads.append(victim)
        self._waits = self._waits or limits.make_room is MakeRoom.REACTIVE

    def _would_fit(self, job: Job, need: int) -> bool:
        """Whether it would if what ranks below it and is in flight were not: then none of those
        go on, or there would always be some in flight."""
        rank, held = self._policy.rank, self._pages.device
        floor = rank(job)
        device = self._residence.on_device.values()
        below = sum(held[each.number] for each in device if rank(each) > floor)
        return need <= self._spare + below
