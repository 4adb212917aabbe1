"""Percentiles of lags are bounds, and a minute is a minute."""

from __future__ import annotations

import numpy as np

from collectors.daemon.lags import LagHistogram, Lags


def test_percentiles_are_close_upper_bounds() -> None:
    lags = np.random.default_rng(1).lognormal(-2.0, 1.0, 20_000)
    histogram = LagHistogram()
    for part in np.array_split(lags, 7):
        histogram.add(part, 100.0)
    told = histogram.ever()
    assert told.count == lags.size
    assert told.max_s == lags.max()
    for share, bound in ((0.5, told.p50_s), (0.99, told.p99_s)):
        exact = float(np.quantile(lags, share, method="inverted_cdf"))
        assert bound is not None
        assert exact <= bound <= exact * 1.13


def test_the_last_minute_forgets() -> None:
    histogram = LagHistogram()
    histogram.add(np.array([5.0]), 0.0)
    histogram.add(np.array([0.01, -3.0]), 50.0)
    assert histogram.lately(55.0).count == 3
    assert histogram.lately(61.0).count == 2
    assert histogram.lately(200.0) == Lags(count=0, p50_s=None, p99_s=None, max_s=None)
    assert histogram.ever().max_s == 5.0
