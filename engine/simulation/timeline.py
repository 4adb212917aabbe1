"""Simulated time: what is to happen, in order, and chance that a seed decides."""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timeline:
    """What happens at one time happens in the order in which it was planned.

    Attributes:
        now: seconds since the beginning.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Plan it; not before now."""
        self._count += 1
        heapq.heappush(self._planned, (max(when, self.now), self._count, do))

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Plan it that long from now."""
        self.at(self.now + seconds, do)

    def run(self, until: float) -> None:
        """Let everything up to then happen."""
        while self._planned and self._planned[0][0] <= until:
            self.now, _, do = heapq.heappop(self._planned)
            do()
        self.now = max(self.now, until)

    @property
    def empty(self) -> bool:
        """Whether nothing is planned."""
        return not self._planned


def stream(seed: int, name: str) -> random.Random:
    """Chance for one part of a simulation; parts do not disturb each other's."""
    return random.Random(f"{seed}:{name}")  # noqa: S311 - a simulation must be repeatable
