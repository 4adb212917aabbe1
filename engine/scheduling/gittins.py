"""The Gittins index of jobs whose lengths are known as a distribution only (Gittins 1989)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping


class GittinsIndex:
    """For one distribution of output lengths.

    A job that has given ``a`` tokens is worth the most that can be had: over all goals ``b``, the
    chance that it ends by ``b``, per token that it is expected to take until it ends or gets
    there. With it, who is worth most runs first, which is optimal for mean completion time on one
    machine where nothing else is known.

    Args:
        counts: how many jobs had so many output tokens; they need not be whole.
    """

    def __init__(self, counts: Mapping[int, float]) -> None:
        assert counts, "there is a distribution"
        lengths = sorted(counts)
        self._lengths = np.array(lengths, dtype=np.float64)
        weights = np.array([counts[each] for each in lengths], dtype=np.float64)
        self._ended = np.concatenate(([0.0], np.cumsum(weights)))
        self._tokens = np.concatenate(([0.0], np.cumsum(weights * self._lengths)))

    def price(self, attained: int, first: float = 0.0) -> float:
        """Tokens per job that ends, at best: the inverse of the index, so less runs first.

        Args:
            attained: tokens that it has given.
            first: what it must do before it gives the next one, in tokens' time: a prefill.

        Returns:
            Infinity where no job is known that was longer.
        """
        at = int(np.searchsorted(self._lengths, attained, side="right"))
        if self._ended[-1] - self._ended[at] <= 0:
            return math.inf
        goals = self._lengths[at:]
        ended = self._ended[at + 1 :] - self._ended[at]
        going = self._ended[-1] - self._ended[at + 1 :]
        tokens = self._tokens[at + 1 :] - self._tokens[at] - attained * ended
        cost = tokens + (goals - attained) * going + first * (ended + going)
        with np.errstate(divide="ignore"):
            return float(np.min(cost / ended))
