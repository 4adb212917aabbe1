"""Slow ranks and deadlocks in both trainers, seen in every way: is the rank named each time?"""

from __future__ import annotations

import os
import random
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsuite.bench.result import Row
from opsuite.bench.tracing.collecting import temporary_home
from opsuite.bench.watchers.fault import find_fault
from opsuite.bench.watchers.hangs import DEADLOCKS, deadlock
from opsuite.bench.watchers.hangs import examine as examine_hang
from opsuite.bench.watchers.job import Job
from opsuite.bench.watchers.trial import OPSUITE, PLAIN, TRAINERS, WAYS, Trial
from opsuite.bench.watchers.verdict import names_line, names_rank, stored_findings
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SLOW, DEADLOCK, ATTACH = "slow rank", "deadlock", "attach"
_STEPS = 120
_START_S = 120.0
_SETTLED_S = 2.0
_ATTACH_S = 120.0
_PLACES = ("dataset", "forward", "backward", "loop")


@dataclass(frozen=True, kw_only=True)
class Named:
    """A run, and whether the guilty rank was named in it, and no other.

    Attributes:
        told: what was said.
    """

    trial: Trial
    right: bool
    told: str

    def __str__(self) -> str:
        return f"{self.trial}: {self.told or 'nothing was said'}"


def measure(rounds: int = 10) -> list[Row]:
    """``rounds`` runs of each trainer, fault and way."""
    chance = random.Random(6)  # noqa: S311 - a campaign that can be repeated
    rows = []
    for trainer in TRAINERS:
        for way in WAYS:
            slow = [slow_rank(chance, trainer=trainer, way=way) for _ in range(rounds)]
            rows.append(_row(f"{trainer}: {SLOW} by {way}", in_turn(slow, 1, name_slow)))
            hung = _deadlocks(chance, rounds, trainer=trainer, way=way)
            rows.append(_row(f"{trainer}: {DEADLOCK} by {way}", in_turn(hung, 2, name_deadlock)))
        hung = _deadlocks(chance, rounds, trainer=trainer, way=PLAIN)
        rows.append(_row(f"{trainer}: {DEADLOCK} by {ATTACH}", in_turn(hung, 2, name_by_attach)))
    return rows


def in_turn(trials: list[Trial], at_once: int, judge: Callable[[Trial], Named]) -> list[Named]:
    """Judge them all; ranks that compute share the cores with nobody."""
    with ThreadPoolExecutor(at_once) as pool:
        named = []
        for each in pool.map(judge, trials):
            narrate(f"{'named' if each.right else 'MISSED'}: {each}")
            named.append(each)
    return named


def slow_rank(chance: random.Random, *, trainer: str, way: str) -> Trial:
    """A rank that sleeps or computes for longer than the others in a part of its steps, or all."""
    ranks = chance.choice((2, 3))
    first = chance.choice((0, chance.randint(20, 60)))
    options = {
        "--steps": _STEPS,
        "--slow-rank": chance.randrange(ranks),
        "--slow-s": round(chance.uniform(0.05, 0.15), 3),
        "--slow-in": chance.choice(_PLACES),
        "--slow-from": first,
        "--slow-to": _STEPS if first == 0 else first + 40,
        "--seed": chance.randrange(1000),
    }
    busy = ("--slow-busy",) if chance.random() < 0.5 else ()
    arguments = tuple(str(part) for option in options.items() for part in option)
    return Trial(trainer=trainer, way=way, ranks=ranks, arguments=(*arguments, *busy))


def _deadlocks(chance: random.Random, count: int, *, trainer: str, way: str) -> list[Trial]:
    kinds = [DEADLOCKS[index % len(DEADLOCKS)] for index in range(count)]
    return [deadlock(chance, kind, trainer=trainer, way=way) for kind in kinds]


def name_slow(trial: Trial) -> Named:
    """Run it to its end; the findings that are printed then, and those that are stored."""
    guilty = int(trial.arguments[trial.arguments.index("--slow-rank") + 1])
    with temporary_home("slow") as home:
        with Job(trial.command(), home, trial.variables(home)) as job:
            job.wait(_START_S)
        printed = [line.text for line in job.lines if "rank" in line.text]
        found = [each for each in stored_findings(home) if each["ranks"]]
    told = "; ".join(
        f"{each['kind']} {each['ranks']} {each['phase']} {each['cause']} {each['steps']}"
        for each in found
    )
    right = bool(found) and all(each["ranks"] == [guilty] for each in found)
    shown = any(f"rank {guilty}" in line for line in printed)
    return Named(trial=trial, right=right and shown, told=told + ("" if shown else " (not shown)"))


def name_deadlock(trial: Trial) -> Named:
    """Run it until the verdict is printed."""
    hang = examine_hang(trial)
    return Named(trial=trial, right=hang.rank_is_right and hang.line_is_right, told=str(hang.said))


def name_by_attach(trial: Trial) -> Named:
    """Run it without opsuite, and attach to its ranks when it hangs."""
    with (
        temporary_home("attach") as home,
        Job(trial.command(), home, trial.variables(home)) as job,
    ):
        job.wait_for(lambda: find_fault(job.lines), _START_S)
        fault = find_fault(job.lines)
        if fault is None:
            return Named(trial=trial, right=False, told=f"no fault: {job.text[-500:]}")
        time.sleep(_SETTLED_S)
        printed = _attach(job.ranks(), home, trial)
    lines = printed.splitlines()
    right = names_rank(lines, fault.rank) and names_line(lines, fault)
    return Named(trial=trial, right=right, told=f"({fault.lines[0]}) {' | '.join(lines)}")


def _attach(pids: list[int], home: Path, trial: Trial) -> str:
    done = subprocess.run(
        [*OPSUITE, "attach", *(str(pid) for pid in pids)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **trial.variables(home)},
        timeout=_ATTACH_S,
        check=False,
    )
    return done.stdout or done.stderr


def _row(name: str, named: list[Named]) -> Row:
    missed = [each for each in named if not each.right]
    return Row(
        name=f"named: {name}",
        value=len(named) - len(missed),
        unit=f"of {len(named)}",
        rounds=len(named),
        target="all",
        met=not missed,
        note="; ".join(str(each) for each in missed),
    )
