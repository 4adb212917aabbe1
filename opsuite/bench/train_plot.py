"""The ablation as a PNG: what each technique makes of the row before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from opsuite.bench.result import Row


def draw(rows: Sequence[Row], to: Path) -> None:
    """A bar for each technique, with its interval.

    Raises:
        StorageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        ratio, interval = row.ratio, row.interval
        if ratio is None or interval is None:
            continue
        axes.barh(place, ratio - 1, left=1, color="tab:blue" if ratio >= 1 else "tab:orange")
        axes.plot(interval, (place, place), color="black", linewidth=1)
        axes.annotate(f" {ratio:.3f}x", (max(ratio, interval[1]), place), va="center")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    axes.set(title="tokens/s over the row before", xlabel="ratio of medians, 95 % interval")
    try:
        figure.savefig(to, format="png", dpi=120)
    except OSError as error:
        raise StorageError.from_os_error(error, f"drawing {to}") from error
