"""What a step costs its process: time on cores, and what kept it off them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.metering.garbage import GarbageTime
from engine.metering.thread_waits import ThreadWaits
from engine.metering.throttling import Throttling

if TYPE_CHECKING:
    from collectors.recorder import Recorder


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Over an interval of one process, all threads together.

    Attributes:
        cpu_time_s: time on a core.
        run_queue_wait_s: time ready to run and waiting for a core; None where the kernel does not
            tell.
        throttled_s: time that its control group was stopped for having used up its cores.
        gc_s: time that Python collected garbage.
    """

    cpu_time_s: float
    run_queue_wait_s: float | None
    throttled_s: float
    gc_s: float

    def record(self, recorder: Recorder, step: int) -> None:
        """As samples of the step; what there was nothing of is left out."""
        recorder.sample("cpu_time_s", self.cpu_time_s, step)
        if self.run_queue_wait_s is not None:
            recorder.sample("run_queue_wait_s", self.run_queue_wait_s, step)
        if self.throttled_s:
            recorder.sample("throttled_s", self.throttled_s, step)
        if self.gc_s:
            recorder.sample("gc_s", self.gc_s, step)


class ProcessMeter:
    """Usage between successive readings of this process."""

    def __init__(self) -> None:
        self._cpu_s = time.process_time()
        self._waits = ThreadWaits()
        self._throttling = Throttling()
        self._garbage = GarbageTime()

    def read(self) -> Usage:
        """The usage since the last reading."""
        cpu_s = time.process_time()
        used, self._cpu_s = cpu_s - self._cpu_s, cpu_s
        return Usage(
            cpu_time_s=used,
            run_queue_wait_s=self._waits.added_s(),
            throttled_s=self._throttling.added_s(),
            gc_s=self._garbage.added_s(),
        )

    def close(self) -> None:
        """Nothing of it is left in the process."""
        self._waits.close()
        self._garbage.close()
