"""One attempt while its ranks step: what has been done, saved and told by any moment."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from engine.resilience.messages import Beat, Copy, Saved

if TYPE_CHECKING:
    from engine.resilience.messages import Place
    from engine.simulation.train.job import Job


class Training:
    """From the first step of an attempt on.

    Attributes:
        attempt: its number.
        frozen_s: when its ranks came to a standstill.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.attempt = job.driver.attempt
        self.begun_s = job.timeline.now
        self.after = job.driver.past.lineage.starts[self.attempt]
        self.frozen_s = inf
        self._told = self.after
        self._copied = self.after

    @property
    def step(self) -> int:
        """The last that is done."""
        return self._job.pace.reached(self.after, self._trained_s)

    @property
    def _trained_s(self) -> float:
        return min(self._job.timeline.now, self.frozen_s) - self.begun_s

    def ends_s(self, step: int) -> float:
        """When a step will have been done."""
        return self.begun_s + self._job.pace.seconds(self.after, max(step, self.after))

    def freeze(self) -> None:
        """No step ends any more."""
        self.frozen_s = min(self.frozen_s, self._job.timeline.now)

    def keep_up(self) -> None:
        """Have the driver know what heartbeats have told it until now."""
        job, last = self._job, self.step
        if last > self._told:
            end = self.ends_s(last)
            done = job.pace.told(self._told, last, job.driver.ledger.best)
            self._told = last
            job.beat(end)
            first = job.hosts[job.driver.places[0].host]
            beat = Beat(
                host=first.name,
                incarnation=first.incarnation,
                attempt=self.attempt,
                done=done,
                copies=first.copies,
            )
            job.handle(beat, end)
            self._publish(first.name, end)
            self._copy()
        if job.training is self:
            job.beat(job.timeline.now)

    def _publish(self, host: str, end: float) -> None:
        """Checkpoints that are whole by now."""
        job = self._job
        seconds = self._trained_s - job.costs.publish_s
        step = job.pace.newest(job.pace.checkpoint_every, self.after, seconds)
        if step > max(self.after, job.on_disk):
            job.on_disk = step
            job.handle(Saved(host=host, attempt=self.attempt, step=step), end)

    def _copy(self) -> None:
        """The newest copies that have come to their peers by now."""
        job = self._job
        seconds = self._trained_s - job.costs.copy_s
        step = job.pace.newest(job.pace.snapshot_every, self.after, seconds)
        if step <= self._copied:
            return
        self._copied = step
        places = job.driver.places
        before = {place.host: places[index - 1] for index, place in enumerate(places)}
        for place in places:
            if (host := job.hosts.get(place.host)) is not None:
                host.copies = self._copies((place, before[place.host]), step)
        job.beat(job.timeline.now, news=True)
        for told in job.driver.roster.here:
            job.driver.past.acknowledge(told, job.driver.roster, places)

    def _copies(self, places: tuple[Place, ...], step: int) -> tuple[Copy, ...]:
        ranks = {rank for place in places for rank in place.ranks}
        return tuple(Copy(attempt=self.attempt, rank=rank, step=step) for rank in sorted(ranks))
