"""How long records waited for their collection, counted in logarithmic buckets."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST_S, _MOST_S = 1e-3, 1e4
_BUCKETS = 140  # 20 a decade: a percentile is at most 12 % above the true one
_WIDTH = np.log(_MOST_S / _LEAST_S) / _BUCKETS
WINDOW_S = 60


@dataclass(frozen=True, kw_only=True)
class Lags:
    """What was counted.

    Attributes:
        count: records.
        p50_s, p99_s, max_s: None where there were none; percentiles are upper bounds.
    """

    count: int
    p50_s: float | None
    p99_s: float | None
    max_s: float | None


class LagHistogram:
    """The lags of the last minute and since the start; safe under threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ever = np.zeros(_BUCKETS, dtype=np.int64)
        self._most = 0.0
        self._seconds: dict[int, tuple[NDArray[np.int64], float]] = {}

    def add(self, lags_s: NDArray[np.float64], now_s: float) -> None:
        """Count lags of now; one below zero (the wall clock was set) counts as the least."""
        if not lags_s.size:
            return
        places = np.log(np.maximum(lags_s, _LEAST_S) / _LEAST_S) / _WIDTH
        counts = np.bincount(
            np.minimum(places.astype(np.int64), _BUCKETS - 1), minlength=_BUCKETS
        ).astype(np.int64)
        most = float(lags_s.max())
        with self._lock:
            self._ever += counts
            self._most = max(self._most, most)
            before, before_most = self._seconds.get(int(now_s), (0, 0.0))
            self._seconds[int(now_s)] = (counts + before, max(most, before_most))
            self._forget(now_s)

    def ever(self) -> Lags:
        """Since the start."""
        with self._lock:
            return _summary(self._ever, self._most)

    def lately(self, now_s: float) -> Lags:
        """Of the last minute."""
        with self._lock:
            self._forget(now_s)
            kept = list(self._seconds.values())
        if not kept:
            return _summary(np.zeros(_BUCKETS, dtype=np.int64), 0.0)
        return _summary(np.sum([counts for counts, _ in kept], axis=0), max(m for _, m in kept))

    def _forget(self, now_s: float) -> None:
        for second in [s for s in self._seconds if s <= now_s - WINDOW_S]:
            del self._seconds[second]


def _summary(counts: NDArray[Any], most_s: float) -> Lags:
    total = int(counts.sum())
    if not total:
        return Lags(count=0, p50_s=None, p99_s=None, max_s=None)

    def percentile(share: float) -> float:
        place = int(np.searchsorted(np.cumsum(counts), share * total))
        return float(min(_LEAST_S * np.exp((place + 1) * _WIDTH), most_s))

    return Lags(count=total, p50_s=percentile(0.5), p99_s=percentile(0.99), max_s=most_s)
