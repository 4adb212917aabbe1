"""The one schema of benchmark results."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured figure.

    Attributes:
        name: what was measured.
        value: the figure (a median where rounds > 1); None where nothing could be measured.
        unit: of ``value`` and ``baseline``.
        baseline: the figure it is compared with, from the same run; None where there is none.
        ratio: value / baseline.
        interval: 95 % interval of the ratio, or of the value where there is no baseline.
        rounds: how often it was measured.
        target: what it should be, in words; "" where it is only reported.
        met: whether it is.
        note: what a reader must know.
    """

    name: str
    value: float | None
    unit: str
    rounds: int
    baseline: float | None = None
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A benchmark's rows, with when, where and of which commit."""

    name: str
    rows: tuple[Row, ...]
    date: str
    commit: str
    device: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @property
    def met(self) -> bool:
        """Whether no row missed its target."""
        return all(row.met is not False for row in self.rows)


def make_result(name: str, rows: list[Row]) -> Result:
    """Stamp rows with date, commit and device."""
    return Result(
        name=name,
        rows=tuple(rows),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=_commit(),
        device=_device(),
    )


def _commit() -> str:
    """The commit of this source tree; ``+`` marks uncommitted changes."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        ours = [*git, "ls-files", "--error-unmatch", here.name]  # not of a project we are inside of
        subprocess.run(ours, capture_output=True, check=True)
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def _device() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    memory = psutil.virtual_memory().total / (1 << 30)
    return f"{model}, {psutil.cpu_count()} cores, {memory:.0f} GiB, CPU ranks"
