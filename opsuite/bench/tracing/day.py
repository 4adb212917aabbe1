"""24 hours of one simulated run, collected in minutes: memory and disk stay flat under the caps.

The collector works by a clock that it is given; the ranks are made up (:mod:`.simulated_day`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np

from opsuite.bench.result import Row
from opsuite.bench.tracing.collecting import temporary_home

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_GROWTH = 0.05
HOURS = 24.0
_TIMEOUT_S = 1200.0


def measure(*, hours: float = HOURS) -> list[Row]:
    """One run of so many simulated hours in a child process, sampled every few minutes of them."""
    with temporary_home("day") as home:
        looks = simulate(home, hours=hours)
    last = looks[-1]
    load = f"{last['events']:.0f} events in {hours:g} simulated hours"
    return [
        _flat(f"day: growth of memory over the second half ({load})", looks, "rss_bytes"),
        _flat("day: growth of the disk over the second half", looks, "disk_bytes"),
        Row(
            name="day: events collected, of those recorded",
            value=last["taken"],
            unit=f"of {last['events']:.0f}",
            rounds=1,
            target="all",
            met=last["taken"] == last["events"],
            note=f"of them {last['expired']:.0f} have expired under a cap of "
            f"{last['cap_bytes'] / 1e6:.0f} MB, their sums by minute stay; "
            f"{last['wall_s']:.0f} s of real time",
        ),
    ]


def simulate(home: Path, *, hours: float) -> list[dict[str, float]]:
    """Run the worker; what it saw, the oldest first."""
    command = [sys.executable, "-P", "-m", "opsuite.bench.tracing.simulated_day"]
    answer = subprocess.run(
        [*command, str(home), str(hours)],
        stdout=subprocess.PIPE,
        timeout=_TIMEOUT_S,
        check=True,
        text=True,
    )
    looks: list[dict[str, float]] = [json.loads(line) for line in answer.stdout.splitlines()]
    return looks


def _flat(name: str, looks: Sequence[dict[str, float]], what: str) -> Row:
    hours = np.array([look["hour"] for look in looks])
    sizes = np.array([look[what] for look in looks])
    late = hours >= hours[-1] / 2
    slope = float(np.polyfit(hours[late], sizes[late], 1)[0])
    growth = slope * float(hours[-1] / 2) / float(sizes[late].mean())
    quarters = [f"{part.max() / 1e6:.0f}" for part in np.array_split(sizes, 4) if part.size]
    return Row(
        name=name,
        value=growth,
        unit="of its mean",
        rounds=int(late.sum()),
        target=f"<= {MAX_GROWTH}",
        met=growth <= MAX_GROWTH,
        note=f"the most in each quarter: {', '.join(quarters)} MB",
    )
