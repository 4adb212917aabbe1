"""Trainers that know nothing of opsuite, with a fault: the guilty rank is named, in every way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from opsuite.bench.watchers.fault import find_fault
from opsuite.bench.watchers.job import Job
from opsuite.bench.watchers.trial import Trial
from opsuite.bench.watchers.verdict import (
    find_verdict,
    names_line,
    names_rank,
    stored_findings,
)

pytest.importorskip("torch", reason="needs the engine extra")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the trainers run on Linux")

_IMPATIENT = {"OPSUITE_HANG_S": "3"}
_START_S = 90.0
_VERDICT_S = 30.0


def trial(trainer: str, way: str, ranks: int, *arguments: str) -> Trial:
    if trainer == "hf":
        pytest.importorskip("accelerate", reason="needs the test extra")
    return Trial(trainer=trainer, way=way, ranks=ranks, arguments=arguments, environment=_IMPATIENT)


@pytest.mark.parametrize(
    ("trainer", "way", "kind"),
    [
        pytest.param("ddp", "watch", "loader-worker", marks=pytest.mark.slow),
        # `bench watching` has it ten times; `make test` has its minutes.
        pytest.param("hf", "run", "wrong-collective", marks=pytest.mark.slow),
    ],
)
def test_verdict_names_the_rank_and_the_line_of_a_deadlock(
    trainer: str, way: str, kind: str, home: Path
) -> None:
    home.mkdir()
    workers = "2" if kind == "loader-worker" else "0"
    fault_of = ("--deadlock", kind, "--on-rank", "1", "--at-step", "4", "--log-every", "5")
    tried = trial(trainer, way, 3, *fault_of, "--workers", workers, "--steps", "100000")
    with Job(tried.command(), home, tried.variables(home)) as job:
        assert job.wait_for(lambda: find_fault(job.lines), _START_S), job.text
        fault = find_fault(job.lines)
        assert fault is not None
        assert job.wait_for(lambda: find_verdict(job.lines), _VERDICT_S), job.text
        said = find_verdict(job.lines)
        assert said is not None
        bundle = said.lines[-1].partition("bundle: ")[2].strip()
        assert job.wait_for(Path(bundle).exists, 10), "where it was said to lie"
    assert names_rank(said.lines, fault.rank), said
    assert names_line(said.lines, fault), said
    assert [each["ranks"] for each in stored_findings(home)] == [[1]]
    assert not job.stayed, "the watchdog leaves with its run"


@pytest.mark.slow
def test_slow_rank_is_named_at_the_end_of_the_run(home: Path) -> None:
    home.mkdir()
    slow = ("--slow-rank", "1", "--slow-s", "0.2", "--slow-in", "forward")
    tried = trial("ddp", "run", 2, *slow, "--steps", "40", "--batch-size", "8")
    with Job(tried.command(), home, tried.variables(home)) as job:
        assert job.wait(_START_S) == 0, job.text
    assert "straggler: rank 1 " in job.text
    assert [each["ranks"] for each in stored_findings(home) if each["ranks"]] == [[1]]


@pytest.mark.slow
def test_long_work_is_no_hang(home: Path) -> None:
    """A checkpoint takes three times as long as a hang is given."""
    home.mkdir()
    long = ("--innocent", "long-checkpoint", "--innocent-s", "10", "--save-every", "20")
    tried = trial("hf", "watch", 2, *long, "--steps", "20", "--checkpoints", "checkpoints")
    with Job(tried.command(), home, tried.variables(home)) as job:
        assert job.wait(_START_S) == 0, job.text
    assert find_verdict(job.lines) is None, job.text
    assert not [each for each in stored_findings(home) if each["kind"] == "hang"]
