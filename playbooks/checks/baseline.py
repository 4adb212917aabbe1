"""What hardware of a kind reaches when it is well; one file a kind: ``baselines/<kind>.json``."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from collectors.atomic import write_atomically
from collectors.errors import DataError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from playbooks.checks.check import Measurement
    from playbooks.checks.hardware import Hardware

_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The median of ``samples`` measurements, in ``unit``."""

    median: float
    unit: str
    samples: int


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Figures of one kind of hardware, by ``check/metric``; none at first."""

    hardware: Hardware
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def of(self, measurement: Measurement) -> float | None:
        """What to compare a measurement with; None: nothing is stored for its like."""
        figure = self.figures.get(measurement.key)
        return figure.median if figure and figure.unit == measurement.unit else None

    def updated(self, measurements: Iterable[Measurement]) -> Baseline:
        """With the medians of sound measurements in place of the figures that were there.

        Subjects of one kind count together, so that one slow core of many does not lower what is
        asked of it.
        """
        values: dict[tuple[str, str], list[float]] = defaultdict(list)
        for measurement in measurements:
            if measurement.fault is None and measurement.value is not None:
                values[measurement.key, measurement.unit].append(measurement.value)
        new = {
            key: Figure(median=statistics.median(found), unit=unit, samples=len(found))
            for (key, unit), found in values.items()
        }
        return replace(self, figures={**self.figures, **new})

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        figures = {
            key: {"median": figure.median, "unit": figure.unit, "samples": figure.samples}
            for key, figure in sorted(self.figures.items())
        }
        return {"version": _VERSION, "hardware": self.hardware.to_json(), "figures": figures}


def baseline_path(home: Path, hardware: Hardware) -> Path:
    """Where the baseline of this kind of hardware is stored."""
    return home / "baselines" / f"{hardware.fingerprint}.json"


def load_baseline(home: Path, hardware: Hardware) -> Baseline:
    """What is stored; a baseline without figures where nothing is.

    Raises:
        DataError: the file is not one that :func:`save_baseline` wrote.
        StorageError: it cannot be read.
    """
    path = baseline_path(home, hardware)
    try:
        figures = _parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Baseline(hardware=hardware)
    except OSError as error:
        raise StorageError.from_os_error(error, "reading the baseline") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"the baseline cannot be used: {error}",
            where=str(path),
            remedy="delete it, and measure with `opsuite check --update-baseline`",
        ) from error
    return Baseline(hardware=hardware, figures=figures)


def save_baseline(home: Path, baseline: Baseline) -> Path:
    """Store it, whole or not at all, and say where.

    Raises:
        StorageError: it cannot be written; what was there is unchanged.
    """
    path = baseline_path(home, baseline.hardware)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, json.dumps(baseline.to_json(), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise StorageError.from_os_error(error, "storing the baseline") from error
    return path


def _parse(data: Any) -> dict[str, Figure]:  # noqa: ANN401 - any JSON value
    if data["version"] != _VERSION:
        raise ValueError(f"version {data['version']} is not {_VERSION}")
    figures = {str(key): Figure(**figure) for key, figure in data["figures"].items()}
    for key, figure in figures.items():
        if not (math.isfinite(figure.median) and figure.median > 0):
            raise ValueError(f"{key}: {figure.median} is no figure")
    return figures
