"""Where the keys and values of all jobs are, and how they get from one place to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.scheduling.job import Place
from engine.scheduling.limits import MakeRoom
from engine.scheduling.pages import Pages

if TYPE_CHECKING:
    from engine.scheduling.job import Job
    from engine.scheduling.limits import Limits


class Residence:
    """Every job that has blocks is in exactly one of the three.

    Attributes:
        pages: the blocks.
        on_device, on_host, moving: jobs by number.
        least_hosted: a lower bound of the blocks that any job on the host needs to come back.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._hand_over = limits.make_room is MakeRoom.REACTIVE
        self.pages = Pages(limits.blocks, limits.host_blocks)
        self.on_device: dict[int, Job] = {}
        self.on_host: dict[int, Job] = {}
        self.moving: dict[int, Job] = {}
        self.least_hosted = limits.blocks

    def holds(self, number: int) -> bool:
        """Whether a job has blocks anywhere."""
        return number in self.on_device or number in self.on_host or number in self.moving

    def needs(self, job: Job) -> int:
        """Blocks of the device that it is given when it begins, or comes back."""
        limits = self._limits
        return limits.blocks_of(max(job.known, limits.reserve_tokens))

    def begin(self, job: Job) -> None:
        """A job that has nothing is given blocks for its whole prompt."""
        assert job.place is Place.NOWHERE
        self.pages.take(job.number, self.needs(job))
        self.on_device[job.number] = job
        job.place = Place.DEVICE

    def drop(self, job: Job) -> None:
        """From the device; all is to be computed again."""
        del self.on_device[job.number]
        self.pages.give_up(job.number)
        job.place, job.cached = Place.NOWHERE, 0

    def host_has_room(self, job: Job) -> bool:
        """For what is computed of a job on the device."""
        return self._limits.blocks_of(job.cached) <= self.pages.host_free

    def offload(self, job: Job) -> None:
        """Begin to move it from the device to the host, which has room."""
        del self.on_device[job.number]
        blocks = self._limits.blocks_of(job.cached)
        self.pages.begin_offload(job.number, blocks, hand_over=self._hand_over)
        self.moving[job.number] = job
        job.place = Place.OFFLOADING

    def upload(self, job: Job) -> None:
        """Begin to move it from the host to the device, which has room."""
        del self.on_host[job.number]
        self.pages.begin_upload(job.number, self.needs(job))
        self.moving[job.number] = job
        job.place = Place.UPLOADING

    def moved(self, job: Job) -> None:
        """Its move is over."""
        del self.moving[job.number]
        if job.place is Place.OFFLOADING:
            self.pages.end_offload(job.number)
            self.on_host[job.number] = job
            job.place = Place.HOST
            self.least_hosted = min(self.least_hosted, self.needs(job))
        else:
            self.pages.end_upload(job.number)
            self.on_device[job.number] = job
            job.place = Place.DEVICE

    def retire(self, job: Job) -> None:
        """It is in flight, and leaves when that is over: it keeps its blocks, but is not seen."""
        self.on_device.pop(job.number, None)

    def leave(self, job: Job) -> None:
        """A job that does not move gives up all that it has."""
        assert job.number not in self.moving, "what moves leaves later"
        self.on_device.pop(job.number, None)
        self.on_host.pop(job.number, None)
        self.pages.leave(job.number)
        job.place = Place.NOWHERE
