"""A figure of several seeds: its mean, and how far that may be off."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Student's t, 97.5 %, by degrees of freedom; beyond them the normal distribution's is near enough.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160)
_NORMAL = 1.96
_BEYOND = 2.145


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval; None where one seed does not give one."""

    value: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, figures: Sequence[float]) -> Estimate:
        """Of one figure of each seed."""
        value = fmean(figures)
        count = len(figures)
        if count < 2:
            return cls(value, None)
        t = _T[count - 2] if count - 2 < len(_T) else _BEYOND if count < 60 else _NORMAL
        half = t * stdev(figures) / sqrt(count)
        return cls(value, (value - half, value + half))
