"""The demo's run, with the fault and without: who is named, and with which steps."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from opsuite.bench.home import bench_home
from opsuite.bench.result import Row
from opsuite.demo import (
    FIRST_SLOW_STEP,
    GUILTY_RANK,
    LAST_SLOW_STEP,
    examine,
    found_the_fault,
    names_a_rank,
    train,
    was_injected,
)
from opsuite.output import narrate

if TYPE_CHECKING:
    from playbooks.diagnosis import Diagnosis

MAX_DEMO_S = 120.0


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """One run and what was said of it."""

    run_id: str
    injected: bool
    diagnosis: Diagnosis


def measure(rounds: int) -> list[Row]:
    """``rounds`` runs with the fault and as many without, in turn; then the whole demo, timed."""
    faulted, healthy = [], []
    for _ in range(rounds):
        faulted.append(_run(fault=True))
        healthy.append(_run(fault=False))
    injected = [trial for trial in faulted if trial.injected]
    return [
        _found(injected, skipped=len(faulted) - len(injected)),
        _border_error(injected),
        _blamed(healthy),
        _demo_time(),
    ]


def _run(*, fault: bool) -> _Trial:
    home = bench_home()
    run_id = train(home, fault=fault, narrate=narrate).run.run_id
    trial = _Trial(
        run_id=run_id, injected=was_injected(home, run_id), diagnosis=examine(home, run_id)
    )
    narrate(f"{run_id}: {_said(trial.diagnosis)}")
    return trial


def _said(diagnosis: Diagnosis) -> str:
    findings = [
        f"{f.kind} ranks {list(f.ranks)} steps {f.first_step}-{f.last_step} {f.slowdown:.2f}x"
        f" {f.cause} {f.share_lost:.1%} ({f.confidence})"
        for f in diagnosis.findings
    ]
    return "; ".join(findings) or "no findings"


def _found(trials: list[_Trial], *, skipped: int) -> Row:
    right = sum(found_the_fault(trial.diagnosis) for trial in trials)
    wrong = [_said(t.diagnosis) for t in trials if not found_the_fault(t.diagnosis)]
    return Row(
        name=f"faulted runs: rank {GUILTY_RANK} alone named, steps within 10",
        value=right,
        unit=f"of {len(trials)}",
        rounds=len(trials),
        target="all",
        met=right == len(trials) if trials else None,
        note="; ".join(wrong) + (f" ({skipped} skipped: no pinning here)" if skipped else ""),
    )


def _border_error(trials: list[_Trial]) -> Row:
    errors = [
        max(abs(f.first_step - FIRST_SLOW_STEP), abs(f.last_step - LAST_SLOW_STEP))
        for trial in trials
        for f in trial.diagnosis.findings
        if f.ranks == (GUILTY_RANK,)
    ]
    return Row(
        name="faulted runs: worst error of a border",
        value=max(errors) if errors else None,
        unit="steps",
        rounds=len(errors),
    )


def _blamed(trials: list[_Trial]) -> Row:
    blamed = [trial for trial in trials if names_a_rank(trial.diagnosis)]
    contended = sum(bool(t.diagnosis.findings) and not names_a_rank(t.diagnosis) for t in trials)
    return Row(
        name="healthy runs in which a rank is named",
        value=len(blamed),
        unit=f"of {len(trials)}",
        rounds=len(trials),
        target="0",
        met=not blamed,
        note="; ".join(_said(trial.diagnosis) for trial in blamed)
        or (f"contention of the whole host noted in {contended}" if contended else ""),
    )


def _demo_time() -> Row:
    start = perf_counter()
    command = [sys.executable, "-P", "-m", "opsuite.cli.main", "demo", "--json"]
    environment = {**os.environ, "OPSUITE_HOME": str(bench_home())}
    demo = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False)
    seconds = perf_counter() - start
    return Row(
        name="opsuite demo, whole",
        value=seconds,
        unit="s",
        rounds=1,
        target=f"<= {MAX_DEMO_S:.0f} s",
        met=seconds <= MAX_DEMO_S and demo.returncode == 0,
        note="" if demo.returncode == 0 else f"it ended with exit code {demo.returncode}",
    )
