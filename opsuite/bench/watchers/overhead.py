"""What being watched costs a step: with a core left to the daemons, and with every core busy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import psutil

from collectors.board import Board, own_facts
from collectors.errors import RunFailed
from collectors.run import RunDirectory
from opsuite.bench.result import Row
from opsuite.bench.rounds import median_interval
from opsuite.bench.tracing.collecting import Collecting, temporary_home
from opsuite.bench.watchers.job import Job
from opsuite.bench.watchers.trial import ONE_THREAD, torchrun

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRIPT = "turns_trainer.py"
_STEPS = 100
_MOST_S_A_TURN = 60.0
_FIGURES = "FIGURES "


@dataclass(frozen=True, kw_only=True)
class Case:
    """How many ranks there are, and what being watched may cost them."""

    name: str
    ranks: int
    max_ratio: float


def cases() -> list[Case]:
    """One core for the daemons, and none."""
    cores = len(os.sched_getaffinity(0))
    return [
        Case(name="a core left to the daemons", ranks=max(1, cores - 1), max_ratio=1.01),
        Case(name="every core busy", ranks=cores, max_ratio=1.03),
    ]


def measure(rounds: int = 30) -> list[Row]:
    """``rounds`` turns with and without in one process group, for each case."""
    return [_row(case, compare(case, rounds)) for case in cases()]


def compare(case: Case, rounds: int, steps: int = _STEPS) -> dict[str, list[float]]:
    """Seconds a step in each turn, "with" and "without".

    Raises:
        RunFailed: the trainer did not end well.
    """
    with temporary_home("watched") as home, daemons(home, case.ranks) as (run, pids):
        if case.ranks < len(cores := sorted(os.sched_getaffinity(0))):
            for pid in pids:
                psutil.Process(pid).cpu_affinity(cores[case.ranks :])
        command = torchrun(case.ranks, SCRIPT)
        command += ["--turns", str(rounds), "--steps", str(steps)]
        command += ["--pause", *(str(pid) for pid in pids)]
        here = {"OPSUITE_HOME": str(home), "OPSUITE_RUN": run.run_id, **ONE_THREAD}
        with Job(command, home / "runs", here) as job:
            job.wait(rounds * _MOST_S_A_TURN)
            return _figures(job)


@contextmanager
def daemons(home: Path, ranks: int) -> Iterator[tuple[RunDirectory, list[int]]]:
    """A run with a collector and a watchdog, which waits for a rank that never ends."""
    with ExitStack() as stack:
        run = RunDirectory.create(
            home, name="watched", kind="training", command=[], config={}, world_size=ranks
        )
        stack.callback(lambda: run.finish("finished", 0))
        collector = stack.enter_context(Collecting(home=home))
        Board(run.path / "boards", own_facts(f"nobody-{os.getpid()}", ranks, ranks + 1))
        watchdog = subprocess.Popen(
            [sys.executable, "-P", "-m", "opsuite.watchdog", str(run.path)],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OPSUITE_HOME": str(home)},
        )
        stack.callback(watchdog.wait)
        stack.callback(watchdog.terminate)
        yield run, [collector.process.pid, watchdog.pid]


def _figures(job: Job) -> dict[str, list[float]]:
    for line in job.lines:
        _, mark, told = line.text.partition(_FIGURES)
        if mark:
            figures: dict[str, list[float]] = json.loads(told)
            return figures
    raise RunFailed("the trainer did not end well", where=job.text[-2000:])


def _row(case: Case, figures: dict[str, list[float]]) -> Row:
    """Neighbouring turns are compared: the machine changes slowly."""
    ratios = [a / b for a, b in zip(figures["with"], figures["without"], strict=True)]
    ratio = median(ratios)
    return Row(
        name=f"overhead: a watched step over one that is not, {case.name}",
        value=median(figures["with"]),
        unit="s",
        rounds=len(ratios),
        baseline=median(figures["without"]),
        ratio=ratio,
        interval=median_interval(ratios),
        target=f"<= {case.max_ratio}",
        met=ratio <= case.max_ratio,
        note=f"{case.ranks} ranks, {_STEPS} steps a turn; collector, samplers and watchdog stand "
        "still in the turns without",
    )
