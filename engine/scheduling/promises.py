"""When jobs should be done, by what would have become of them under first come, first served."""

from __future__ import annotations

_STRETCH = 1.3
_LONG_PEAK = 1.5
_PEAK = 8.0
_LONG = 0.12  # the longest tenth, and some more, since the order of prompts is known in classes
_FORGET = 1_000  # jobs until a peak, or a prompt, counts a third (1 / e)
_CLASSES = 128


class Promises:
    """First come, first served would have done a job when all work that is here is done.

    That does not depend on the order in which it is done, so this is known whatever policy runs
    (a virtual FCFS, as fair-sojourn protocols have it; Friedman and Henderson 2003). Each job may
    take 1.3 times as long. Long prompts, which are what an index puts off first, may also take 1.5
    times the longest that FCFS would have taken for anyone lately, since a bound for each is
    tighter than one for the 99th percentile; others 8 times that, so that nobody starves.
    """

    def __init__(self) -> None:
        self._prompts = [0.0] * _CLASSES
        self._weight = 1.0
        self._peak_s = 0.0

    def make(self, kind: int, fcfs_s: float, *, learnt: bool) -> float:
        """Seconds from arrival that a job may take.

        Args:
            kind: class of its prompt's length; the higher the longer.
            fcfs_s: what FCFS would take, by estimate.
            learnt: whether estimates mean anything yet; if not, they say nothing of the peak.
        """
        if learnt:
            self._peak_s = max(self._peak_s * (1 - 1 / _FORGET), fcfs_s)
        peaks = _LONG_PEAK if self._is_long(kind) else _PEAK
        return max(self.bound(fcfs_s), peaks * self._peak_s)

    def bound(self, fcfs_s: float) -> float:
        """What any job is promised."""
        return _STRETCH * fcfs_s

    def _is_long(self, kind: int) -> bool:
        """Among those that came lately, it too."""
        longer = sum(self._prompts[kind + 1 :])
        self._prompts[kind] += self._weight
        self._weight *= 1 + 1 / _FORGET
        if self._weight > 1e9:
            self._prompts = [each / self._weight for each in self._prompts]
            self._weight = 1.0
        return longer <= _LONG * sum(self._prompts)
