"""Metrics on their way to Prometheus: a bounded number of series, in its text format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_SERIES = 1000
"""Of one metric; what is beyond is left out and counted."""
_LONGEST_LABEL = 200


class Families:
    """Takes figures one by one; a figure that is None is left out (NaN is a value)."""

    def __init__(self, *, most_series: int = MOST_SERIES) -> None:
        self._most_series = most_series
        self._families: dict[str, Any] = {}
        self._seen: dict[str, set[tuple[str, ...]]] = {}
        self._left_out = 0

    def gauge(self, name: str, about: str, labels: Mapping[str, str], value: Any) -> None:  # noqa: ANN401 - any SQL number
        """What is so now."""
        from prometheus_client.core import GaugeMetricFamily

        self._add(GaugeMetricFamily, name, about, labels, value)

    def counter(self, name: str, about: str, labels: Mapping[str, str], value: Any) -> None:  # noqa: ANN401
        """What only grows; ``_total`` is added to its name."""
        from prometheus_client.core import CounterMetricFamily

        self._add(CounterMetricFamily, name, about, labels, value)

    def info(self, name: str, about: str, labels: Mapping[str, str]) -> None:
        """Texts about something; ``_info`` is added to its name."""
        self.gauge(f"{name}_info", about, labels, 1)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        from prometheus_client import CollectorRegistry, generate_latest

        about = f"Series beyond {self._most_series} of a metric, which are not here."
        self.gauge("opsuite_series_left_out", about, {}, self._left_out)
        registry = CollectorRegistry()
        registry.register(_Fixed(self._families))
        return generate_latest(registry)

    def _add(
        self,
        kind: Any,  # noqa: ANN401 - prometheus_client's classes have no common base for this
        name: str,
        about: str,
        labels: Mapping[str, str],
        value: Any,  # noqa: ANN401
    ) -> None:
        if value is None:
            return
        family = self._families.setdefault(name, kind(name, about, labels=list(labels)))
        values = tuple(str(label)[:_LONGEST_LABEL] for label in labels.values())
        seen = self._seen.setdefault(name, set())
        if len(seen) >= self._most_series or values in seen:
            self._left_out += 1
            return
        seen.add(values)
        family.add_metric(values, float(value))


class _Fixed:
    """A collector of what is there already."""

    def __init__(self, families: Mapping[str, Any]) -> None:
        self._families = families

    def collect(self) -> Iterator[Any]:
        yield from self._families.values()
