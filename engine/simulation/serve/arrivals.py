"""When requests come: a Poisson stream, or a burstier one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def arrivals(
    rng: np.random.Generator, count: int, rate: float, cv: float = 1.0
) -> NDArray[np.float64]:
    """So many times in seconds, rising, at a mean rate of ``rate`` a second.

    The gaps are Gamma-distributed with coefficient of variation ``cv``: 1 is a Poisson stream. The
    same chance at another rate gives the same stream, faster or slower.
    """
    shape = 1.0 / (cv * cv)
    times: NDArray[np.float64] = rng.gamma(shape, 1.0 / shape, count).cumsum() / rate
    return times
