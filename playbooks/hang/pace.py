"""How long the steps of a run take, as somebody sees who looks once a second."""

from __future__ import annotations

from collections import deque
from statistics import median

_REMEMBERED = 50
_FEWEST = 5  # steps, before anything can be called usual
_OVERDUE_TIMES = 5.0
_OVERDUE_S = 10.0


class Pace:
    """Told how many steps are done, again and again."""

    def __init__(self, now_s: float) -> None:
        self._done = -1
        self._since_s = now_s
        self._durations: deque[float] = deque(maxlen=_REMEMBERED)
        self._told = False

    def look(self, done: int, now_s: float, *, excused: bool) -> float | None:
        """Seconds that the step has taken where it is overdue now, told once a step.

        Args:
            done: steps that are completed.
            excused: this step may take long.
        """
        if done != self._done:
            if done > self._done >= 1:
                share = (now_s - self._since_s) / (done - self._done)
                self._durations.extend([share] * min(done - self._done, _REMEMBERED))
            self._done, self._since_s, self._told = done, now_s, False
            return None
        self._told = self._told or excused
        taken_s = now_s - self._since_s
        if self._told or len(self._durations) < _FEWEST or taken_s <= _OVERDUE_S:
            return None
        if taken_s <= _OVERDUE_TIMES * self.usual_s:
            return None
        self._told = True
        return taken_s

    @property
    def usual_s(self) -> float:
        """The median step."""
        return median(self._durations)
