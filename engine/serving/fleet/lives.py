"""What becomes of requests, groups and instances of a fleet, as it is recorded and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.level import Level, declare
from engine.serving.worker.life import Lives

if TYPE_CHECKING:
    from collectors.recorder import Recorder
    from engine.elastic.iteration import GroupIteration
    from engine.scheduling.job import Job
    from engine.serving.fleet.flight import Flight

declare(Level.SAMPLED, "group.iteration", "request.scaled")


class FleetLives(Lives):
    """Tells a recorder of each group's iteration, too, and of instances that come and go.

    ``group.iteration``: its instances, what it computed, how long that was expected to take and
    took, and the slots that are taken on each of its instances afterwards. ``request.scaled``:
    other instances than before compute a request, or hold it.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._groups: dict[int, tuple[int, ...]] = {}

    def gained(self, instance: int, slots: int) -> None:
        """An instance is there."""
        self._recorder.event("instance.gained", subject=instance, value=slots)

    def lost(self, instance: int) -> None:
        """An instance is gone."""
        self._recorder.event("instance.lost", subject=instance)

    def flies(self, iteration: GroupIteration) -> None:
        """A group begins an iteration."""
        self._counts["iterations"] += 1
        for work in iteration.work:
            number = work.job.number
            self._starts(number)
            self._running[number] = work.job
            if not work.first or work.first == work.job.shared:
                self._counts["prefix_tokens"] += work.job.known
                self._counts["shared_tokens"] += work.first
            before = self._groups.get(number)
            if before != iteration.instances:
                self._groups[number] = iteration.instances
                if before is not None:
                    self._scaled(number, before, iteration.instances)

    def ended(self, flight: Flight, used: dict[int, int], now: float) -> None:
        """It is over, one way or the other.

        Args:
            used: slots of its instances that are taken.
        """
        iteration = flight.iteration
        decodes = sum(work.tokens == 1 and work.first > 0 for work in iteration.work)
        sent = [sum(each) for each in zip(*(done.sent for done in flight.accounts), strict=True)]
        self._recorder.event(
            "group.iteration",
            subject=iteration.number,
            value=flight.seconds,
            attributes={
                "instances": list(iteration.instances),
                "prompts": len(iteration.work) - decodes,
                "prefill_tokens": sum(work.tokens for work in iteration.work) - decodes,
                "decodes": decodes,
                "predicted_s": iteration.predicted_s,
                "since_decided_s": now - flight.begun_s,
                "sent_bytes": sent,
                "moved_tokens": sum(each.tokens for each in iteration.transfers),
                "used": used,
                "torn": flight.torn,
            },
        )
        for work in iteration.work:
            self._running.pop(work.job.number, None)

    def dropped(self, job: Job) -> None:
        """Its keys and values are given up, or lost."""
        self._preempt(job.number)
        self._counts["recomputations"] += 1
        self._event("request.dropped", job.number)

    def left(self, number: int) -> None:
        """Nothing more is heard of a request."""
        self._groups.pop(number, None)

    def _scaled(self, number: int, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        self._recorder.event(
            "request.scaled",
            subject=number,
            value=len(after),
            attributes={"from": list(before), "to": list(after)},
        )
