"""Runs that stand still for long with nothing wrong: is anything said?"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from opsuite.bench.result import Row
from opsuite.bench.tracing.collecting import temporary_home
from opsuite.bench.watchers.job import Job
from opsuite.bench.watchers.trial import TRAINERS, WAYS, Trial
from opsuite.bench.watchers.verdict import Said, find_verdict, stored_findings
from opsuite.output import narrate

INNOCENTS = ("slow-first-step", "long-checkpoint", "long-compile", "long-evaluation")
PAUSE_S = 40.0
_MOST_S = 240.0
_AT_ONCE = 3


@dataclass(frozen=True, kw_only=True)
class Innocent:
    """A run with a long pause.

    Attributes:
        exit_code: None: it did not end in time.
        said: a hang that was seen in it.
        findings: what was stored as a hang.
    """

    trial: Trial
    exit_code: int | None
    said: Said | None
    findings: int

    @property
    def left_alone(self) -> bool:
        """Whether it ran to its end, and nothing was said."""
        return self.exit_code == 0 and self.said is None and not self.findings

    def __str__(self) -> str:
        return f"{self.trial}: exit code {self.exit_code}, {self.said or 'nothing was said'}"


def measure(rounds: int = 20) -> list[Row]:
    """``rounds`` runs, of all kinds in turn."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        innocents = list(pool.map(examine, trials(rounds)))
    return rows_of(innocents)


def trials(count: int, *, seed: int = 5, pause_s: float = PAUSE_S) -> list[Trial]:
    """Runs of all kinds in turn; trainer, way and number of ranks by chance."""
    chance = random.Random(seed)  # noqa: S311 - a campaign that can be repeated
    return [
        _trial(INNOCENTS[index % len(INNOCENTS)], chance, pause_s=pause_s) for index in range(count)
    ]


def _trial(kind: str, chance: random.Random, *, pause_s: float) -> Trial:
    options = {
        "--innocent": kind,
        "--innocent-s": pause_s,
        "--steps": 60,
        "--save-every": 40,
        "--evaluate-every": 30,
        "--seed": chance.randrange(1000),
        "--checkpoints": "checkpoints",
    }
    return Trial(
        trainer=chance.choice(list(TRAINERS)),
        way=chance.choice(WAYS),
        ranks=chance.choice((2, 3)),
        arguments=tuple(str(part) for option in options.items() for part in option),
    )


def examine(trial: Trial) -> Innocent:
    """Run it to its end."""
    with temporary_home("innocent") as home:
        with Job(trial.command(), home, trial.variables(home)) as job:
            exit_code = job.wait(_MOST_S)
            text = job.text
        innocent = Innocent(
            trial=trial,
            exit_code=exit_code,
            said=find_verdict(job.lines),
            findings=sum(each["kind"] == "hang" for each in stored_findings(home)),
        )
    narrate(str(innocent))
    if exit_code:
        narrate(text[-2000:])
    return innocent


def rows_of(innocents: list[Innocent]) -> list[Row]:
    """How many were left alone."""
    accused = [each for each in innocents if not each.left_alone]
    return [
        Row(
            name=f"runs that pause for {PAUSE_S:.0f} s in which a hang is seen",
            value=len(accused),
            unit=f"of {len(innocents)}",
            rounds=len(innocents),
            target="0",
            met=not accused,
            note="; ".join(str(each) for each in accused),
        )
    ]
