"""What a process costs its machine: CPU time, and time spent waiting for a core."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

_TASKS = Path("/proc/self/task")
_NS = 1e-9


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Over an interval of one process, all threads together.

    Attributes:
        cpu_time_s: time on a core.
        run_queue_wait_s: time ready to run and waiting for a core; None where the kernel does not
            tell.
    """

    cpu_time_s: float
    run_queue_wait_s: float | None


class ProcessMeter:
    """Usage between successive readings of this process."""

    def __init__(self, tasks: Path = _TASKS) -> None:
        self._tasks = tasks
        self._cpu_s = time.process_time()
        self._waits = self._read_waits()

    def read(self) -> Usage:
        """The usage since the last reading."""
        cpu_s, waits = time.process_time(), self._read_waits()
        used = cpu_s - self._cpu_s
        waited = None
        if waits is not None and self._waits is not None:
            before = self._waits
            waited = _NS * sum(max(0, ns - before.get(t, 0)) for t, ns in waits.items())
        self._cpu_s, self._waits = cpu_s, waits
        return Usage(cpu_time_s=used, run_queue_wait_s=waited)

    def _read_waits(self) -> dict[str, int] | None:
        """Nanoseconds waited, by thread (Linux: Documentation/scheduler/sched-stats.rst)."""
        try:
            return {
                task.name: int((task / "schedstat").read_bytes().split()[1])
                for task in self._tasks.iterdir()
            }
        except (OSError, IndexError, ValueError):
            return None  # no such file, or a thread ended while it was read
