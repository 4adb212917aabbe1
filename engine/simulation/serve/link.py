"""The link between an engine's device and its host: a stream for each direction."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.scheduling.job import Job


class Stream:
    """Moves jobs' keys and values, one job after the other, beside the work.

    Attributes:
        bytes_moved: in all that was begun.
    """

    def __init__(self, bytes_per_s: float, bytes_per_token: int) -> None:
        self._seconds_per_token = bytes_per_token / bytes_per_s
        self._bytes_per_token = bytes_per_token
        self._moving: deque[tuple[float, Job]] = deque()
        self._free_s = 0.0
        self.bytes_moved = 0

    def begin(self, jobs: Iterable[Job], now: float) -> None:
        """Move these, not before now, after those that move already."""
        for job in jobs:
            self._free_s = max(self._free_s, now) + self._seconds_per_token * job.cached
            self.bytes_moved += self._bytes_per_token * job.cached
            self._moving.append((self._free_s, job))

    @property
    def next_s(self) -> float:
        """When the next job has moved; infinity where none moves."""
        return self._moving[0][0] if self._moving else float("inf")

    @property
    def free_s(self) -> float:
        """When all that is moving now has moved."""
        return self._free_s

    def done(self, now: float) -> list[Job]:
        """Those that have moved since the last call."""
        found = []
        while self._moving and self._moving[0][0] <= now:
            found.append(self._moving.popleft()[1])
        return found
