"""What counters that only grow say when they are read again and again."""

from __future__ import annotations


class Counters:
    """Counters by name. One that fell was set back, and counts from there."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}

    def added(self, name: str, total: float) -> float:
        """What came since the last reading; 0 at the first."""
        before, _ = self._last.get(name, (total, 0.0))
        self._last[name] = (total, 0.0)
        return max(total - before, 0.0)

    def per_s(self, name: str, total: float, now_s: float) -> float | None:
        """How fast it grew since the last reading; None at the first, and where it fell."""
        last = self._last.get(name)
        self._last[name] = (total, now_s)
        if last is None or now_s <= last[1] or total < last[0]:
            return None
        return (total - last[0]) / (now_s - last[1])
