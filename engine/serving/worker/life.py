"""What becomes of requests, as it is recorded and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.level import Level, declare
from engine.scheduling.job import Place
from engine.serving.request import FinishReason
from engine.serving.wire import Load

if TYPE_CHECKING:
    from collectors.recorder import Recorder
    from engine.scheduling.iteration import Iteration
    from engine.scheduling.job import Job
    from engine.scheduling.residence import Residence
    from engine.serving.request import GenerationRequest, Token
    from engine.serving.worker.sequence import Sequence

declare(Level.SAMPLED, "request.preempted", "request.swapped_out", "request.swapped_in")

_COUNTED = (
    *("preemptions", "offloads", "uploads", "recomputations"),
    *("prefix_tokens", "shared_tokens", "iterations"),
)


class Lives:
    """Tells a recorder of each request: ``request.`` arrived, scheduled, preempted, resumed,
    swapped_out, swapped_in, dropped, first_token, finished.

    Preempted is whoever could have gone on but was left out of an iteration, or lost its place on
    the device.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._running: dict[int, Job] = {}
        self._seen: set[int] = set()
        self._preempted: set[int] = set()
        self._counts = dict.fromkeys(_COUNTED, 0)

    @property
    def iterations(self) -> int:
        """That computed anything, so far."""
        return self._counts["iterations"]

    def arrived(self, request: GenerationRequest) -> None:
        """It has come."""
        self._recorder.event(
            "request.arrived",
            subject=request.number,
            attributes={
                "id": request.id,
                "prompt_tokens": len(request.prompt),
                "given": len(request.output),
            },
        )

    def began(self, job: Job, shared: int) -> None:
        """So many tokens at its front need not be computed."""
        self._counts["prefix_tokens"] += job.known
        self._counts["shared_tokens"] += shared

    def scheduled(self, iteration: Iteration, residence: Residence) -> None:
        """What has been decided."""
        running = {work.job.number: work.job for work in iteration.work}
        for number in running.keys() - self._running.keys():
            self._starts(number)
        if running:
            for number in self._running.keys() - running.keys():
                if residence.holds(number) and not self._running[number].in_flight:
                    self._preempt(number)
            self._running = running
            self._counts["iterations"] += 1
        for job in iteration.drop:
            self._preempt(job.number)
            self._counts["recomputations"] += 1
            self._event("request.dropped", job.number)
        for job in iteration.offload:
            self._counts["offloads"] += 1
            self._preempt(job.number)
        self._counts["uploads"] += len(iteration.upload)

    def _starts(self, number: int) -> None:
        if number not in self._seen:
            self._seen.add(number)
            self._event("request.scheduled", number)
        elif number in self._preempted:
            self._preempted.discard(number)
            self._event("request.resumed", number)

    def _preempt(self, number: int) -> None:
        if number not in self._preempted and number in self._seen:
            self._preempted.add(number)
            self._counts["preemptions"] += 1
            self._event("request.preempted", number)

    def moved(self, job: Job) -> None:
        """It has arrived on the other side, unless it has left."""
        if job.place is Place.HOST:
            self._event("request.swapped_out", job.number)
        elif job.place is Place.DEVICE:
            self._event("request.swapped_in", job.number)

    def gave(self, sequence: Sequence, token: Token) -> None:
        """One more token."""
        if token.place == 0 and not token.failed:
            self._event("request.first_token", token.number)
        if token.finish:
            self._end(sequence, token.finish)

    def cancelled(self, sequence: Sequence) -> None:
        """Nobody wants it any more."""
        self._end(sequence, FinishReason.CANCELLED)

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        number = sequence.request.number
        self._seen.discard(number)
        self._preempted.discard(number)
        self._running.pop(number, None)
        self._recorder.event(
            "request.finished",
            subject=number,
            value=len(sequence.output),
            attributes={"reason": reason.value},
        )

    def load(self, *, live: int, swapped: int, kv_usage: float, host_usage: float) -> Load:
        """How busy the engine is, with all that was counted."""
        running = len(self._running)
        return Load(
            running=running,
            waiting=max(0, live - running - swapped),
            swapped=swapped,
            kv_usage=kv_usage,
            host_usage=host_usage,
            **self._counts,
        )

    def _event(self, name: str, number: int) -> None:
        self._recorder.event(name, subject=number)
