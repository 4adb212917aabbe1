"""Pauses of Python's garbage collector, in the process that makes them."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

from collectors.clock import now_ns

if TYPE_CHECKING:
    from collectors.recorder import Recorder

SPAN = "gc.pause"
THRESHOLD_NS = 1_000_000


class GarbageWatch:
    """Records collections that take a millisecond and more as spans, and counts all of them.

    What is counted is sampled at :meth:`stop`: ``gc.<generation>.collections`` and
    ``gc.<generation>.pause_s``.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._pid = os.getpid()
        self._begun_ns = 0
        self._counts = [0, 0, 0]
        self._paused_ns = [0, 0, 0]

    def start(self) -> None:
        """Begin to look; children that are forked do not go on with it."""
        if self._look not in gc.callbacks:
            self._pid = os.getpid()
            gc.callbacks.append(self._look)

    def stop(self) -> None:
        """End; ``gc.callbacks`` are as they were found."""
        if self._look not in gc.callbacks:
            return
        gc.callbacks.remove(self._look)
        for generation, count in enumerate(self._counts):
            if count:
                paused_s = self._paused_ns[generation] / 1e9
                self._recorder.sample(f"gc.{generation}.collections", count)
                self._recorder.sample(f"gc.{generation}.pause_s", paused_s)

    def _look(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._begun_ns = now_ns()
            return
        end_ns = now_ns()
        if not self._begun_ns or os.getpid() != self._pid:
            return
        generation = min(info["generation"], 2)
        self._counts[generation] += 1
        self._paused_ns[generation] += end_ns - self._begun_ns
        if end_ns - self._begun_ns >= THRESHOLD_NS:
            self._recorder.record_span(SPAN, self._begun_ns, end_ns)
        self._begun_ns = 0
