"""Trainers that do things their own way: do they end as ever when they are watched?"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from collectors.daemon.access import open_store
from opsuite.bench.result import Row
from opsuite.bench.tracing.collecting import temporary_home
from opsuite.bench.watchers.job import Job
from opsuite.bench.watchers.trial import ONE_THREAD, OPSUITE, WAYS, script_path, torchrun
from opsuite.output import narrate

SCRIPT = "odd_trainers.py"
STEPS = 20
_MOST_S = 120.0
_RECORDED = "SELECT rank, count(*) FROM steps GROUP BY rank ORDER BY rank"


@dataclass(frozen=True, kw_only=True)
class Odd:
    """A trainer of ``tests/trainers/odd_trainers.py``.

    Attributes:
        ranks: 0: it starts them by itself.
        exit_code: with which it ends, watched or not.
        steps: how many each rank completes, as far as anybody can know.
    """

    name: str
    ranks: int
    exit_code: int
    steps: tuple[int, ...]


ODD = (
    Odd(name="single", ranks=0, exit_code=0, steps=(STEPS,)),
    Odd(name="accumulation", ranks=2, exit_code=0, steps=(STEPS, STEPS)),
    Odd(name="adversaries", ranks=2, exit_code=0, steps=(STEPS, STEPS)),
    Odd(name="asynchronous", ranks=2, exit_code=0, steps=(STEPS, STEPS)),
    Odd(name="compiled", ranks=2, exit_code=0, steps=(STEPS, STEPS)),
    Odd(name="raising", ranks=2, exit_code=1, steps=(STEPS // 2, STEPS // 2)),
    Odd(name="exiting", ranks=2, exit_code=1, steps=(STEPS, STEPS)),
    Odd(name="spawned", ranks=0, exit_code=0, steps=(STEPS, STEPS)),
)


def measure() -> list[Row]:
    """Each of them in each way."""
    pairs = [(odd, way) for odd in ODD for way in WAYS]
    with ThreadPoolExecutor(2) as pool:
        wrong = [text for text in pool.map(lambda pair: examine(*pair), pairs) if text]
    return [
        Row(
            name="odd trainers that end as ever, with their steps recorded",
            value=len(pairs) - len(wrong),
            unit=f"of {len(pairs)}",
            rounds=len(pairs),
            target="all",
            met=not wrong,
            note="; ".join(wrong),
        )
    ]


def examine(odd: Odd, way: str) -> str:
    """What was wrong; "": nothing."""
    with temporary_home("odd") as home:
        here = {"OPSUITE_HOME": str(home), "OPSUITE_COLLECT": "0", **ONE_THREAD}
        if way == "watch":
            here["WATCH"] = "1"
        with Job(_command(odd, way), home, here) as job:
            exit_code = job.wait(_MOST_S)
        with open_store(home) as store:
            steps = tuple(count for _, count in store.rows(_RECORDED))
    narrate(f"{odd.name} by {way}: exit code {exit_code}, steps {steps}")
    # The first step that is seen from its beginning is the second where nobody waited for data.
    near = len(steps) == len(odd.steps) and all(
        0 <= expected - found <= 1 for expected, found in zip(odd.steps, steps, strict=True)
    )
    if exit_code == odd.exit_code and near and not job.stayed:
        return ""
    told = " | ".join(line.text for line in job.lines[-12:])
    return f"{odd.name} by {way}: exit code {exit_code}, steps {steps}, {job.stayed}: {told}"


def _command(odd: Odd, way: str) -> list[str]:
    start = torchrun(odd.ranks, SCRIPT) if odd.ranks else [sys.executable, str(script_path(SCRIPT))]
    before = [*OPSUITE, "run", "--"] if way == "run" else []
    return [*before, *start, odd.name, "--steps", str(STEPS)]
