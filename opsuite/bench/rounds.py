"""Fair comparison on noisy machines: interleaved rounds, medians, bootstrap intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_RESAMPLES = 2000


def interleave(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure A B A B ...; every other round in reverse order, so that no variant is always first.

    Each variant returns its own figure.
    """
    figures: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(rounds):
        order = list(variants) if index % 2 == 0 else list(variants)[::-1]
        for name in order:
            figures[name].append(variants[name]())
    return figures


def median_interval(figures: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    rng = np.random.default_rng(seed)
    samples = rng.choice(np.asarray(figures), size=(_RESAMPLES, len(figures)))
    return _bounds(np.median(samples, axis=1))


def ratio_interval(
    figures: Sequence[float], baselines: Sequence[float], seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of medians."""
    rng = np.random.default_rng(seed)
    tops = np.median(rng.choice(np.asarray(figures), size=(_RESAMPLES, len(figures))), axis=1)
    bottoms = np.median(
        rng.choice(np.asarray(baselines), size=(_RESAMPLES, len(baselines))), axis=1
    )
    return _bounds(tops / bottoms)


def interval_of(
    figure: Callable[..., float], *samples: Sequence[float], seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of a figure made of several samples of one length, by rounds."""
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(each) for each in samples]
    drawn = rng.integers(0, len(arrays[0]), size=(_RESAMPLES, len(arrays[0])))
    return _bounds(np.array([figure(*(array[index] for array in arrays)) for index in drawn]))


def _bounds(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
