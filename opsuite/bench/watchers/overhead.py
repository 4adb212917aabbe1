"""What being watched costs a step: with a core left to the daemons, and with every core busy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
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

Figures = dict[str, list[tuple[float, float]]]
SCRIPT = "turns_trainer.py"
_STEPS = 50
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


def measure(rounds: int = 60) -> list[Row]:
    """``rounds`` turns with and without in one process group, for each case."""
    return [row for case in cases() for row in rows_of(case, compare(case, rounds))]


def compare(case: Case, rounds: int, steps: int = _STEPS) -> Figures:
    """Seconds a step in each turn, by the clock and on the core, "with" and "without".

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


def _figures(job: Job) -> Figures:
    for line in job.lines:
        _, mark, told = line.text.partition(_FIGURES)
        if mark:
            figures: Figures = json.loads(told)
            return figures
    raise RunFailed("the trainer did not end well", where=job.text[-2000:])


def rows_of(case: Case, figures: Figures) -> list[Row]:
    """By the clock, which counts, and by the ranks' own use of their cores, which is steadier."""
    row = _row(figures, 0, f"overhead: a watched step over one that is not, {case.name}")
    note = (
        f"{case.ranks} ranks, {_STEPS} steps a turn; collector, samplers and watchdog stand still "
        "in the turns without"
    )
    met = row.ratio is not None and row.ratio <= case.max_ratio
    return [
        replace(row, target=f"<= {case.max_ratio}", met=met, note=note),
        _row(figures, 1, f"overhead: CPU time of the first rank a step, {case.name}"),
    ]


def _row(figures: Figures, column: int, name: str) -> Row:
    """Neighbouring turns are compared: the machine changes slowly."""
    watched, plain = ([turn[column] for turn in figures[kind]] for kind in ("with", "without"))
    ratios = [a / b for a, b in zip(watched, plain, strict=True)]
    return Row(
        name=name,
        value=median(watched),
        unit="s",
        rounds=len(ratios),
        baseline=median(plain),
        ratio=median(ratios),
        interval=median_interval(ratios),
    )
