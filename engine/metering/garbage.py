"""How long Python collected garbage in this process."""

from __future__ import annotations

import gc
import time


class GarbageTime:
    """Time of collections between successive readings, whoever asked for them."""

    def __init__(self) -> None:
        self._begun_s = 0.0
        self._spent_s = 0.0
        gc.callbacks.append(self._look)

    def added_s(self) -> float:
        """Seconds since the last reading."""
        spent, self._spent_s = self._spent_s, 0.0
        return spent

    def close(self) -> None:
        """``gc.callbacks`` are as they were found."""
        if self._look in gc.callbacks:
            gc.callbacks.remove(self._look)

    def _look(self, phase: str, _: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._begun_s = now
        elif self._begun_s:
            self._spent_s += now - self._begun_s
            self._begun_s = 0.0
