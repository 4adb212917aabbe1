"""Stretches of a noisy series that lie above a level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Segment:
    """Indices ``start`` to ``stop`` (exclusive) of a series."""

    start: int
    stop: int

    @property
    def slice(self) -> slice:
        """For indexing the series."""
        return slice(self.start, self.stop)

    def __len__(self) -> int:
        return self.stop - self.start


def maximal_segments(scores: NDArray[np.float64]) -> list[Segment]:
    """All maximal scoring segments of a series, in order (Ruzzo & Tompa 1999).

    Positive scores vote for a segment and negative ones against it, so a stretch may hold a few
    steps that vote against it, and ends where going on would not pay.
    """
    found: list[tuple[Segment, float, float]] = []  # segment, sum before it, sum after it
    total = 0.0
    for index, score in enumerate(scores.tolist()):
        before, total = total, total + score
        if score <= 0:
            continue
        segment, left, right = Segment(index, index + 1), before, total
        while True:
            joined = next((i for i in reversed(range(len(found))) if found[i][1] < left), None)
            if joined is None or found[joined][2] >= right:
                found.append((segment, left, right))
                break
            segment, left = Segment(found[joined][0].start, segment.stop), found[joined][1]
            del found[joined:]
    return [segment for segment, _, _ in found]


def block_noise(values: NDArray[np.float64], length: int) -> float:
    """Standard deviation of the mean of ``length`` consecutive values, robustly estimated.

    Slow drifts count as noise here, as they would not with a deviation of single values; and so
    does the largest excursion, taken for a three-sigma event.
    """
    if values.size < 2:
        return float("inf")
    length = max(1, min(length, values.size // 4))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    means = (sums[length:] - sums[:-length]) / length
    deviations = np.abs(means - np.median(means))
    return float(max(1.4826 * np.median(deviations), np.max(deviations) / 3.0))


def step_noise(values: NDArray[np.float64]) -> float:
    """Standard deviation of single values around any level, from their first differences."""
    if values.size < 2:
        return float("inf")
    differences = np.diff(values)
    return float(1.4826 * np.median(np.abs(differences - np.median(differences))) / np.sqrt(2.0))


def outside(size: int, segments: Iterable[Segment]) -> NDArray[np.bool_]:
    """A mask [size] of the indices that lie in none of the segments."""
    mask = np.ones(size, dtype=np.bool_)
    for segment in segments:
        mask[segment.slice] = False
    return mask
