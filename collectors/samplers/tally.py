"""Misfortunes that can come many times a second, told of a few times a minute."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

TELL_S = 10.0


class Tally:
    """Counts what happens, and gives it out at once, and then once in ten seconds with how many."""

    def __init__(self) -> None:
        self._untold: dict[str, float] = {}
        self._told_s = float("-inf")

    def add(self, counts: Mapping[str, float], now_s: float) -> dict[str, float]:
        """Take what came; what is to be told now, empty if that is nothing."""
        for name, count in counts.items():
            if count:
                self._untold[name] = self._untold.get(name, 0) + count
        if not self._untold or now_s - self._told_s < TELL_S:
            return {}
        told, self._untold = self._untold, {}
        self._told_s = now_s
        return told
