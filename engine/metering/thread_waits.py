"""How long this process's threads waited for a core."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_TASKS = Path("/proc/self/task")
_NS = 1e-9
_LOOK_S = 1.0  # how often to look for new threads: listing them costs more than reading them


class ThreadWaits:
    """Waits between successive readings, all threads together.

    What a thread waited in its first second, until it is found, counts when it is found.
    """

    def __init__(self, tasks: Path = _TASKS, clock: Callable[[], float] = time.monotonic) -> None:
        self._tasks = tasks
        self._clock = clock
        self._files: dict[str, int] = {}
        self._looked_s = -_LOOK_S
        self._waits = self._read()

    def added_s(self) -> float | None:
        """Seconds since the last reading; None where the kernel does not tell."""
        before, self._waits = self._waits, self._read()
        if self._waits is None or before is None:
            return None
        return _NS * sum(max(0, ns - before.get(t, 0)) for t, ns in self._waits.items())

    def close(self) -> None:
        """Close the kernel's files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _read(self) -> dict[str, int] | None:
        """Nanoseconds waited, by thread (Linux: Documentation/scheduler/sched-stats.rst)."""
        try:
            if self._clock() - self._looked_s >= _LOOK_S:
                self._look()
            found = {}
            for name, descriptor in list(self._files.items()):
                with suppress(ProcessLookupError):  # the thread has ended
                    found[name] = int(os.pread(descriptor, 64, 0).split()[1])
            return found
        except (OSError, IndexError, ValueError):
            return None  # no such file

    def _look(self) -> None:
        """Open the files of new threads, and close those of ended ones."""
        self._looked_s = self._clock()
        names = set(os.listdir(self._tasks))  # noqa: PTH208 - names are all that is wanted
        for gone in self._files.keys() - names:
            os.close(self._files.pop(gone))
        for name in names - self._files.keys():
            with suppress(FileNotFoundError):  # it ended just now
                path = self._tasks / name / "schedstat"
                self._files[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        self.close()
