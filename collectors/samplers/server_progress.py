"""What a server did between two readings of its metrics.

Counters and histograms only grow, until the server starts again; then what they say is what came
since, and so is of this interval too. All of it is computed by series, before engines are summed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.samplers.server_dialects import CANCELLED, FAILED, FRACTIONS, REASON_LABELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from collectors.samplers.exposition import Exposition, Series

_START_SLACK_S = 1.0
_MOST_BUCKETS = 200
_Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """How long something took in an interval, counted in buckets; only those with a count.

    Attributes:
        low, high: bounds in seconds, the upper one included; ``high`` None: there is none.
        counts: how many in each.
        sum_s: of all of them; None where the server does not say.
    """

    low: tuple[float, ...]
    high: tuple[float | None, ...]
    counts: tuple[int, ...]
    sum_s: float | None


@dataclass(frozen=True, kw_only=True)
class Interval:
    """What a server did for one model since the last reading.

    Attributes:
        model: "" where it does not say.
        seconds: how long it was; None at the first reading, which has gauges alone.
        gauges: what is so now.
        counts: what came in the interval; what the server does not tell is not there.
        latencies: by measure; one that nothing came of is not there.
    """

    model: str
    seconds: float | None
    gauges: Mapping[str, float]
    counts: Mapping[str, float]
    latencies: Mapping[str, Latencies]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One reading against the one before: an interval for each model, and whether it restarted."""

    intervals: tuple[Interval, ...]
    restarted: bool


class ServerProgress:
    """Remembers the last reading.

    Args:
        most_models: of how many models it tells; further ones are left out.
    """

    def __init__(self, *, most_models: int) -> None:
        self._most_models = most_models
        self._models: list[str] = []
        self._before: dict[_Key, float] | None = None
        self._at_s = 0.0
        self._started_s: float | None = None

    @property
    def models(self) -> Sequence[str]:
        """Those that are told of, in the order in which they came."""
        return self._models

    def take(self, exposition: Exposition, now_s: float) -> Progress:
        """What came since the last call; ``now_s`` is monotonic."""
        self.meet(exposition)
        values = {
            (name, one.labels): one.value
            for name, series in exposition.series.items()
            for one in series
        }
        new_process = self._is_new_process(exposition.started_s)
        increases = _Increases(exposition, self._before, new_process=new_process)
        seconds = None if self._before is None else now_s - self._at_s
        intervals = tuple(
            Interval(
                model=model,
                seconds=seconds,
                gauges=_gauges(exposition, self._of(model)),
                counts=increases.counts(self._of(model)),
                latencies=increases.latencies(self._of(model)),
            )
            for model in self._models
        )
        kept = {} if new_process else self._before or {}
        self._before, self._at_s = kept | values, now_s  # a series may be missing for once
        return Progress(intervals=intervals, restarted=new_process or increases.fell)

    def meet(self, exposition: Exposition) -> Sequence[str]:
        """Take in the models that are new; gives all that are told of."""
        for model in sorted(exposition.models() - set(self._models)):
            if self._models == [""]:
                self._models = []  # what it said before it had a model is of this one
            if len(self._models) < self._most_models:
                self._models.append(model)
        if not self._models:
            self._models = [""]
        return self._models

    def _of(self, model: str) -> frozenset[str]:
        """Whose series count for a model; with one model only, those that name none as well."""
        return frozenset({model, ""}) if len(self._models) == 1 else frozenset({model})

    def _is_new_process(self, started_s: float | None) -> bool:
        before, self._started_s = self._started_s, started_s or self._started_s
        return bool(before and started_s and abs(started_s - before) > _START_SLACK_S)


class _Increases:
    """By how much counters grew."""

    def __init__(
        self, exposition: Exposition, before: dict[_Key, float] | None, *, new_process: bool
    ) -> None:
        self._exposition = exposition
        self._before = before
        self._new_process = new_process
        self.fell = False

    def counts(self, models: frozenset[str]) -> dict[str, float]:
        counts: dict[str, float] = {}
        if self._before is None:
            return counts
        for measure, names in self._exposition.dialect.counters.items():
            for one in _chosen(self._exposition.first(names), models):
                ours = _by_reason(measure, one)
                name = next(name for name in names if name in self._exposition.series)
                counts[ours] = counts.get(ours, 0.0) + self._increase(name, one)
        return counts

    def latencies(self, models: frozenset[str]) -> dict[str, Latencies]:
        found: dict[str, Latencies] = {}
        if self._before is None:
            return found
        for measure, names in self._exposition.dialect.latencies.items():
            for name in names:
                if f"{name}_bucket" in self._exposition.series:
                    if (latencies := self._histogram(name, models)) is not None:
                        found[measure] = latencies
                    break
        return found

    def _histogram(self, name: str, models: frozenset[str]) -> Latencies | None:
        below: dict[float, float] = {}
        for one in _chosen(self._exposition.series[f"{name}_bucket"], models):
            bound = _bound(one.label("le"))
            below[bound] = below.get(bound, 0.0) + self._increase(f"{name}_bucket", one)
        if not below or len(below) > _MOST_BUCKETS:
            return None
        buckets, low, passed = [], 0.0, 0
        for high in sorted(below):
            if (count := round(below[high]) - passed) > 0:
                buckets.append((low, high if math.isfinite(high) else None, count))
                passed += count
            low = high
        if not buckets:
            return None
        lows, highs, counts = zip(*buckets, strict=True)
        return Latencies(low=lows, high=highs, counts=counts, sum_s=self._sum(name, models))

    def _sum(self, name: str, models: frozenset[str]) -> float | None:
        series = _chosen(self._exposition.series.get(f"{name}_sum", ()), models)
        return sum(self._increase(f"{name}_sum", one) for one in series) if series else None

    def _increase(self, name: str, one: Series) -> float:
        """Since the last reading; a series that was not there has begun at 0."""
        assert self._before is not None
        before = 0.0 if self._new_process else self._before.get((name, one.labels), 0.0)
        if one.value < before:
            self.fell = True
            return max(0.0, one.value)
        return one.value - before


def _gauges(exposition: Exposition, models: frozenset[str]) -> dict[str, float]:
    gauges: dict[str, float] = {}
    for measure, names in exposition.dialect.gauges.items():
        if values := [one.value for one in _chosen(exposition.first(names), models)]:
            gauges[measure] = sum(values) / (len(values) if measure in FRACTIONS else 1)
    return gauges


def _chosen(series: tuple[Series, ...], models: frozenset[str]) -> list[Series]:
    return [one for one in series if one.model in models]


def _by_reason(measure: str, one: Series) -> str:
    reason = one.label(*REASON_LABELS).lower()
    if measure != "finished" or not reason:
        return measure
    return "cancelled" if reason in CANCELLED else "errors" if reason in FAILED else measure


def _bound(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf
