"""What recording 10,000 spans a second costs a training step, with a core left to the daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from collectors.errors import RunFailed
from collectors.run import RunDirectory
from opsuite.bench.result import Row
from opsuite.bench.rounds import ratio_interval
from opsuite.bench.tracing.collecting import Collecting, cpu_s, temporary_home
from opsuite.bench.tracing.traced_steps import SPANS_A_STEP
from opsuite.bench.tracing.tracers import TRACERS

if TYPE_CHECKING:
    from pathlib import Path

    import psutil

MAX_RATIO = 1.015
OURS = "opsuite"
_TURNS_A_ROUND = 8
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def measure(rounds: int) -> list[Row]:
    """Steps without and with each tracer in turn; the daemon collects on the other cores."""
    turns = rounds * _TURNS_A_ROUND
    with temporary_home("overhead") as home:
        run = RunDirectory.create(
            home, name="overhead", kind="training", command=[], config={}, world_size=1
        )
        with Collecting(home=home) as daemon:
            core = _share_cores(daemon.process)
            before = cpu_s(daemon.process)
            figures = _steps(run, home, turns, core)
            collected_s = cpu_s(daemon.process) - before
            with daemon.connect() as client:
                [(stored,)] = client.rows("SELECT count(*) FROM spans")
    recorded = f"the daemon took {collected_s:.2f} s of CPU and stored {stored} spans meanwhile"
    if core < 0:
        recorded += "; nobody is pinned to a core here"
    return rows_of(figures, recorded)


def _share_cores(daemon: psutil.Process) -> int:
    """Give the daemon and its readers all cores but one; returns that one, -1 if none is left."""
    if not hasattr(os, "sched_setaffinity"):
        return -1
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        return -1
    for process in (daemon, *daemon.children(recursive=True)):
        process.cpu_affinity(others)
    return first


def _steps(run: RunDirectory, scratch: Path, turns: int, core: int) -> dict[str, Any]:
    """The worker's figures; RunFailed with its last words where it gives none."""
    worker = [sys.executable, "-P", "-m", "opsuite.bench.tracing.traced_steps"]
    done = subprocess.run(
        [*worker, str(run.spool), str(scratch), str(turns), str(core)],
        capture_output=True,
        text=True,
        env={**os.environ, **_ONE_THREAD},
        check=False,
    )
    if done.returncode:
        raise RunFailed("the traced steps failed", where=done.stderr.strip()[-2000:])
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def rows_of(figures: dict[str, Any], note: str) -> list[Row]:
    """Two rows for each tracer: a step over one without it, and the tail of its spans."""
    steps_s, costs_ns = figures["steps_s"], figures["costs_ns"]
    rows = []
    for name in TRACERS:
        if name in figures["missing"]:
            rows.append(_missing_row(name, figures["missing"][name]))
            continue
        rows.append(_step_row(name, steps_s[name], steps_s[""], note if name == OURS else ""))
        rows.append(_span_row(name, np.array(costs_ns[name]) / 1e3, len(steps_s[name])))
    return rows


def _step_row(name: str, steps_s: list[float], bare_s: list[float], note: str) -> Row:
    ratio = median(steps_s) / median(bare_s)
    ours = name == OURS
    return Row(
        name=f"overhead: a step with {SPANS_A_STEP} spans, p50, {name}, over none",
        value=median(steps_s),
        unit="s",
        rounds=len(steps_s),
        baseline=median(bare_s),
        ratio=ratio,
        interval=ratio_interval(steps_s, bare_s),
        target=f"<= {MAX_RATIO}" if ours else "",
        met=ratio <= MAX_RATIO if ours else None,
        note=note,
    )


def _span_row(name: str, costs_us: np.ndarray, rounds: int) -> Row:
    return Row(
        name=f"overhead: a span in such a step, p99.9, {name}",
        value=float(np.quantile(costs_us, 0.999)),
        unit="us",
        rounds=rounds,
        note=f"p50 {np.median(costs_us):.2f} us, timer included; {len(costs_us)} spans",
    )


def _missing_row(name: str, why: str) -> Row:
    return Row(
        name=f"overhead: a step with {SPANS_A_STEP} spans, p50, {name}, over none",
        value=None,
        unit="s",
        rounds=0,
        note=f"not measured: {why}",
    )
