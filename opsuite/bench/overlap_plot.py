"""Overlap efficiency and speed-up over the number of rows, as a PNG."""

from __future__ import annotations

from importlib.util import find_spec
from statistics import median
from typing import TYPE_CHECKING

from collectors.errors import StorageError, UsageError
from opsuite.bench.overlap import efficiency, product_alone

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.overlap.timing.case import Case


def require_drawing(to: Path) -> None:
    """Look before minutes of measuring.

    Raises:
        UsageError: matplotlib is not installed, or there is no such folder.
    """
    if find_spec("matplotlib") is None:
        raise UsageError(
            "drawing needs matplotlib", where="--plot", remedy="pip install matplotlib"
        )
    if not to.absolute().parent.is_dir():
        raise UsageError("there is no such folder", where=f"--plot {to}", remedy="make it first")


def draw(timed: Sequence[tuple[Case, Mapping[str, Sequence[float]]]], to: Path) -> None:
    """A line for each operator, direction and weight.

    Raises:
        StorageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for case, seconds in timed:
        label = f"{case.operator} {case.direction} n={case.n} k={case.k}"
        fused, serial = seconds["fused"], seconds["serial"]
        hidden = efficiency(fused, serial, product_alone(seconds))
        lines.setdefault(label, []).append((case.m, hidden, median(serial) / median(fused)))
    for label, points in lines.items():
        rows, shares, speeds = zip(*sorted(points), strict=True)
        left.plot(rows, shares, marker="o", label=label)
        right.plot(rows, speeds, marker="o")
    for axes, title in ((left, "overlap efficiency"), (right, "speed-up over serial")):
        axes.set(title=title, xlabel="m (rows)", xscale="log")
        axes.grid(visible=True, alpha=0.3)
    left.set_ylim(-0.5, 1.5)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    try:
        figure.savefig(to, format="png", dpi=120)
    except OSError as error:
        raise StorageError.from_os_error(error, f"drawing {to}") from error
