"""The highest rate of arrivals at which an objective is kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PRECISION = 1.01  # a rate that is higher by this factor does not keep the objective any more
_WIDEST = 2**10  # from the guess, either way
_FIRST_STEP = 1.06
_INSIDE = 0.15  # of a bracket: no trial is nearer to its ends


class RateSearch:
    """What is found for one objective serves for the next: figures of a rate are asked for once.

    Args:
        figures: of a rate, by name; each should rise with it.
    """

    def __init__(self, figures: Callable[[float], dict[str, float]]) -> None:
        self._figures = figures
        self._known: dict[float, dict[str, float]] = {}

    def figure(self, name: str, rate: float) -> float:
        """One of them."""
        if rate not in self._known:
            self._known[rate] = self._figures(rate)
        return self._known[rate][name]

    def highest(self, name: str, most: float, guess: float, precision: float = PRECISION) -> float:
        """The highest rate at which the figure is at most ``most``, by brackets that shrink where
        the figure's own slope says. 0: it is more even at a thousandth of the guess; a thousand
        times the guess or more: it is not more at that."""
        low, high = self._bracket(name, most, guess)
        while low and high / low > precision:
            rate = self._between(name, most, low, high)
            low, high = (rate, high) if self.figure(name, rate) <= most else (low, rate)
        return low

    def _bracket(self, name: str, most: float, guess: float) -> tuple[float, float]:
        """A rate that keeps the objective, and a higher one that does not: of those that are known
        the closest, else by steps that grow."""
        self.figure(name, guess)
        kept = [rate for rate, found in self._known.items() if found[name] <= most]
        low = max(kept, default=0.0)
        high = min((rate for rate in self._known if rate > low), default=math.inf)
        step = _FIRST_STEP
        while not low and high > guess / _WIDEST:
            rate = high / step
            low, high = (rate, high) if self.figure(name, rate) <= most else (0.0, rate)
            step *= step
        while math.isinf(high) and low < guess * _WIDEST:
            rate = low * step
            low, high = (rate, high) if self.figure(name, rate) <= most else (low, rate)
            step *= step
        return low, (low if math.isinf(high) else high)

    def _between(self, name: str, most: float, low: float, high: float) -> float:
        """Where the straight line between both, all logarithms, meets what may be; not too near to
        either end, so that the bracket shrinks from both."""
        low_figure, high_figure = self.figure(name, low), self.figure(name, high)
        part = 0.5
        if 0 < low_figure < high_figure < math.inf:
            part = math.log(most / low_figure) / math.log(high_figure / low_figure)
        part = min(max(part, _INSIDE), 1 - _INSIDE)
        return float(low * (high / low) ** part)
