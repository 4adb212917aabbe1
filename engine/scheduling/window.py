"""The latest of many figures, and how large most of them are."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque


class Window:
    """Args:
    size: how many are kept.
    """

    def __init__(self, size: int) -> None:
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []
        self._size = size

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, figure: float) -> None:
        """The oldest is forgotten."""
        self._latest.append(figure)
        insort(self._sorted, figure)
        if len(self._latest) > self._size:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]

    def at(self, index: int) -> float:
        """Of so many, the least first."""
        return self._sorted[index]
