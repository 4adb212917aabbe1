"""How long ``opsuite --help`` takes, beside a bare interpreter."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from opsuite.bench.result import Row
from opsuite.bench.rounds import interleave, median_interval, ratio_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SECONDS = 0.3
MAX_RATIO = 15.0


def measure(rounds: int) -> list[Row]:
    """Median wall time of whole processes, interleaved."""
    help_command = [sys.executable, "-P", "-m", "opsuite.cli.main", "--help"]
    bare_command = [sys.executable, "-c", "pass"]
    _time(help_command)  # bytecode is compiled once
    figures = interleave(
        {"help": lambda: _time(help_command), "bare": lambda: _time(bare_command)}, rounds
    )
    helps, bares = figures["help"], figures["bare"]
    value, baseline = median(helps), median(bares)
    return [
        Row(
            name="opsuite --help",
            value=value,
            unit="s",
            rounds=rounds,
            interval=median_interval(helps),
            target=f"<= {MAX_SECONDS} s",
            met=value <= MAX_SECONDS,
        ),
        Row(
            name="opsuite --help over python -c pass",
            value=value,
            unit="s",
            rounds=rounds,
            baseline=baseline,
            ratio=value / baseline,
            interval=ratio_interval(helps, bares),
            target=f"<= {MAX_RATIO:.0f}x",
            met=value / baseline <= MAX_RATIO,
        ),
    ]


def _time(command: Sequence[str]) -> float:
    start = perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - start
