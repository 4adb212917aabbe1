"""Deadlocks in every place where trainers have them: when is who named, and with which line?"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

from opsuite.bench.result import Row
from opsuite.bench.tracing.collecting import temporary_home
from opsuite.bench.watchers.fault import Fault, find_fault
from opsuite.bench.watchers.job import Job
from opsuite.bench.watchers.trial import TRAINERS, WAYS, Trial
from opsuite.bench.watchers.verdict import (
    Said,
    find_verdict,
    names_line,
    names_rank,
    stored_findings,
)
from opsuite.output import narrate

MAX_VERDICT_S = 30.0
DEADLOCKS = (
    "loader",
    "loader-worker",
    "lock",
    "before-collective",
    "wrong-collective",
    "extra-collective",
    "forward",
    "stop",
)
_START_S = 120.0
_PATIENCE_S = 60.0
_LOG_EVERY = 5
_AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class Hang:
    """A deadlock and what was said of it.

    Attributes:
        fault: None: it did not come about.
        said: None: nothing was.
        accused: ranks of the findings that were stored.
    """

    trial: Trial
    fault: Fault | None
    said: Said | None
    accused: tuple[tuple[int, ...], ...]
    stayed: tuple[str, ...] = ()

    @property
    def delay_s(self) -> float | None:
        """From the fault to the last line of the verdict."""
        if self.fault is None or self.said is None:
            return None
        return self.said.at_s - self.fault.at_s

    @property
    def rank_is_right(self) -> bool:
        """Whether the printed verdict and the stored finding name the rank, and no other."""
        if self.fault is None or self.said is None:
            return False
        return names_rank(self.said.lines, self.fault.rank) and self.accused == (
            (self.fault.rank,),
        )

    @property
    def line_is_right(self) -> bool:
        """Whether the line in which the rank stays is told."""
        return bool(self.fault and self.said and names_line(self.said.lines, self.fault))

    def __str__(self) -> str:
        lines = "" if self.fault is None else f" ({self.fault.lines[0]})"
        delay = "" if self.delay_s is None else f" after {self.delay_s:.1f} s"
        return f"{self.trial}{lines}: {self.said or 'nothing was said'}{delay}; {self.accused}"


def measure(rounds: int = 20) -> list[Row]:
    """``rounds`` deadlocks, of all classes in turn."""
    hangs = in_parallel(deadlocks(rounds))
    return rows_of(hangs)


def deadlocks(count: int, *, ways: tuple[str, ...] = WAYS, seed: int = 4) -> list[Trial]:
    """Trials of all classes in turn; trainer, way, rank and step by chance."""
    chance = random.Random(seed)  # noqa: S311 - a campaign that can be repeated
    classes = [DEADLOCKS[index % len(DEADLOCKS)] for index in range(count)]
    return [
        deadlock(chance, kind, trainer=chance.choice(list(TRAINERS)), way=chance.choice(ways))
        for kind in classes
    ]


def deadlock(chance: random.Random, kind: str, *, trainer: str, way: str) -> Trial:
    """One trial; where ranks meet in two collectives, two of them are not enough to tell."""
    ranks = chance.choice((3, 4) if kind.endswith("-collective") else (2, 3, 4))
    options = {
        "--deadlock": kind,
        "--on-rank": chance.randrange(ranks),
        "--at-step": chance.randint(3, 40),
        "--steps": 100_000,
        "--log-every": _LOG_EVERY,
        "--workers": 2 if kind == "loader-worker" else 0,
        "--seed": chance.randrange(1000),
    }
    arguments = tuple(str(part) for option in options.items() for part in option)
    return Trial(trainer=trainer, way=way, ranks=ranks, arguments=arguments)


def in_parallel(trials: list[Trial], at_once: int = _AT_ONCE) -> list[Hang]:
    """Some at a time: their ranks wait, mostly."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(examine, trials))


def examine(trial: Trial) -> Hang:
    """Run it until something is said, or for a minute after the fault."""
    with temporary_home("hang") as home:
        with Job(trial.command(), home, trial.variables(home)) as job:
            job.wait_for(lambda: find_fault(job.lines), _START_S)
            fault = find_fault(job.lines)
            if fault is not None:
                job.wait_for(lambda: find_verdict(job.lines), _PATIENCE_S)
            said = find_verdict(job.lines)
            text = job.text
        hang = Hang(
            trial=trial,
            fault=fault,
            said=said,
            accused=tuple(
                tuple(each["ranks"]) for each in stored_findings(home) if each["kind"] == "hang"
            ),
            stayed=tuple(job.stayed),
        )
    narrate(str(hang))
    if fault is None:
        narrate(text[-2000:])
    return hang


def rows_of(hangs: list[Hang]) -> list[Row]:
    """Named, with which line, and how soon."""
    wrong = [hang for hang in hangs if not (hang.rank_is_right and hang.line_is_right)]
    delays = [hang.delay_s for hang in hangs if hang.delay_s is not None]
    late = [hang for hang in hangs if hang.delay_s is None or hang.delay_s > MAX_VERDICT_S]
    stayed = [each for hang in hangs for each in hang.stayed]
    return [
        Row(
            name="deadlocks in which the rank and its line are named",
            value=len(hangs) - len(wrong),
            unit=f"of {len(hangs)}",
            rounds=len(hangs),
            target="all",
            met=not wrong,
            note="; ".join(str(hang) for hang in wrong),
        ),
        Row(
            name="from a deadlock to the verdict, the longest",
            value=max(delays) if delays else None,
            unit="s",
            rounds=len(delays),
            target=f"<= {MAX_VERDICT_S:.0f} s in all",
            met=not late,
            note=f"median {median(delays):.1f} s" if delays else "nothing was said",
        ),
        Row(
            name="watchdogs that outlive their run by 10 s",
            value=len(stayed),
            unit="",
            rounds=len(hangs),
            target="0",
            met=not stayed,
            note="; ".join(stayed),
        ),
    ]
