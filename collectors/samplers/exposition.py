"""Prometheus text, read with care: what we know of it, and no more than it may cost."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.errors import DataError
from collectors.samplers.server_dialects import STARTED, Dialect, is_wanted, recognise, split_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_MOST_LINES = 20_000
_LONGEST_LINE = 4096  # the parser's time grows with its square where it is all escapes
_COPIES = ("tp_rank", "pp_rank", "moe_ep_rank")
_MODEL_LABELS = ("model_name", "model_id")


@dataclass(frozen=True, slots=True)
class Series:
    """One value, and whose it is.

    Attributes:
        labels: sorted pairs, without those of ranks that tell the same thing.
    """

    labels: tuple[tuple[str, str], ...]
    value: float

    def label(self, *names: str) -> str:
        """The first of these labels that is there, or ""."""
        labels = dict(self.labels)
        return next((labels[name] for name in names if labels.get(name)), "")

    @property
    def model(self) -> str:
        """The model that it is about, fit to be printed; "" where it does not say."""
        return _printable(self.label(*_MODEL_LABELS))


@dataclass(frozen=True, kw_only=True)
class Exposition:
    """What a server said at one time.

    Attributes:
        series: by name, as its dialect has them (:func:`.server_dialects.split_name`).
        started_s: when its process says it has started, since the epoch; None: it does not.
    """

    dialect: Dialect
    series: Mapping[str, tuple[Series, ...]]
    started_s: float | None

    def first(self, names: tuple[str, ...]) -> tuple[Series, ...]:
        """The series of the first of these names that is there."""
        return next((self.series[name] for name in names if name in self.series), ())

    def models(self) -> set[str]:
        """The models that it tells of."""
        return {one.model for some in self.series.values() for one in some} - {""}


def read_exposition(text: str) -> Exposition | None:
    """Read what a server answered; None where nothing in it is of a server that is known.

    Lines of other metrics are passed over unread. Ranks of one model copy (tensor and pipeline
    parallel) tell the same thing each: the largest counts once.

    Raises:
        DataError: it is cut off, too long, or not Prometheus text.
    """
    if text and not text.endswith("\n"):
        raise DataError("the answer is cut off: its last line has no end")
    named: dict[tuple[str, str], dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
    started = None
    for name, labels, value in _samples(_wanted_lines(text)):
        if name == STARTED:
            started = value
            continue
        kept = tuple(sorted(pair for pair in labels.items() if pair[0] not in _COPIES))
        known = named[split_name(name)]
        known[kept] = max(value, known.get(kept, -math.inf))
    dialect = recognise(source for source, _ in named)
    if dialect is None:
        return None
    series = {
        name: _without_parts(tuple(Series(labels, value) for labels, value in values.items()))
        for (source, name), values in named.items()
        if source == dialect.source
    }
    return Exposition(dialect=dialect, series=series, started_s=started)


def _wanted_lines(text: str) -> str:
    """The lines of metrics that are known; comments are left out: names say enough."""
    lines = []
    for line in text.splitlines():
        found = _NAME.match(line)
        if found is None or not is_wanted(found[0]):
            continue
        lines.append(line)
        if len(line) > _LONGEST_LINE or len(lines) > _MOST_LINES:
            raise DataError(
                f"the answer is too long: more than {_MOST_LINES} values, or {_LONGEST_LINE} "
                "characters in one line"
            )
    return "\n".join(lines)


def _samples(lines: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    from prometheus_client.parser import text_string_to_metric_families

    try:
        for family in text_string_to_metric_families(lines):
            for sample in family.samples:
                if math.isfinite(sample.value):
                    yield sample.name, sample.labels, float(sample.value)
    except (ValueError, IndexError, KeyError, OverflowError) as error:  # IndexError: odd quotes
        text = _printable(str(error))
        raise DataError(f"the answer is not Prometheus text: {text or 'odd'}") from None


def _printable(text: str) -> str:
    """What somebody else wrote, for a terminal."""
    return "".join(one if one.isprintable() else "?" for one in text[:200])


def _without_parts(series: tuple[Series, ...]) -> tuple[Series, ...]:
    """Where SGLang tells of priorities and of all together, all together."""
    whole = tuple(one for one in series if ("priority", "") in one.labels)
    return whole or series
