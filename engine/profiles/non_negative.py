"""Least squares with no coefficient below 0."""

from __future__ import annotations

from itertools import chain, combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SMALLEST = 1e-300  # of a column that is all 0, whose coefficient is 0


def non_negative(columns: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """The coefficients, one a column, with which the columns come closest to what is wanted.

    Of all subsets of the columns the best whose plain solution has none below 0: exact, and quick
    where columns are few.

    Args:
        columns: (samples, columns), of any orders of magnitude.
        wanted: (samples,).
    """
    count = columns.shape[1]
    units = np.maximum(np.abs(columns).max(axis=0), _SMALLEST)
    best, best_loss = np.zeros(count), float((wanted**2).sum())
    sizes = (combinations(range(count), size) for size in range(1, count + 1))
    for used in map(list, chain.from_iterable(sizes)):
        found = np.linalg.lstsq(columns[:, used] / units[used], wanted)[0]
        terms = np.zeros(count)
        terms[used] = found / units[used]
        loss = float(((columns @ terms - wanted) ** 2).sum())
        if (terms >= 0).all() and loss < best_loss - 1e-15:
            best, best_loss = terms, loss
    return best
