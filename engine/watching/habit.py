"""What a rank is used to do next: which collective follows which, and after how many."""

from __future__ import annotations

from collections import defaultdict

_MOST = 32  # different distances: whoever has more of them is used to none

Call = tuple[str, ...]


class Habit:
    """Told of each collective as it is called."""

    def __init__(self) -> None:
        self._number = 0
        self._last: Call = ()
        self._followers: set[tuple[Call, Call]] = set()
        self._called: dict[Call, int] = {}
        self._distances: dict[Call, set[int]] = defaultdict(set)

    def is_broken_by(self, *call: str) -> bool:
        """Whether this rank never did that after what it did last, or not after so many others.

        The second tells who leaves an epoch early: the barrier at its end has followed a step
        before, but always as many steps.
        """
        pair, self._last = (self._last, call), call
        known = pair in self._followers
        self._followers.add(pair)
        self._number += 1
        before, self._called[call] = self._called.get(call), self._number
        if before is None:
            return not known
        distances, distance = self._distances[call], self._number - before
        used = not distances or distance in distances or len(distances) >= _MOST
        if len(distances) < _MOST:
            distances.add(distance)
        return not (known and used)
