"""What a killed rank costs: a job that recovers, warm, beside a plain loop under torchrun, cold.

Both train the same small model on four CPU ranks, keep a state every five steps and lose rank 1 to
SIGKILL at the same steps. What is compared is the time from the kill to the end of the first step
that had never been done before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from collectors.configuration import resolve
from collectors.daemon.access import open_store
from collectors.errors import RunFailed, UsageError
from opsuite.bench.home import bench_home
from opsuite.bench.result import Row
from opsuite.bench.rounds import median_interval, ratio_interval
from opsuite.drilling.drill import Drill, run_drill
from opsuite.drilling.outcome import read_outcome
from opsuite.drilling.small_job import SMALL_JOB
from opsuite.output import narrate

if TYPE_CHECKING:
    from engine.training.config import RunConfig

_SOURCES = Path(__file__).parents[2]
_SCRIPT = _SOURCES / "benchmarks" / "baselines" / "restarting_loop.py"
_KILLS = (18, 38, 58)
_STEPS, _RANKS = 70, 4
MANY_FAULTS = {"accused_most": 1000}
"""Every fault is an injected one: no host is left out for it."""
MOST_S, LEAST_RATIO = 6.0, 2.0


def measure(rounds: int) -> list[Row]:
    """A job of each kind in turn, with three kills in each."""
    if not _SCRIPT.is_file():
        raise UsageError(
            "the baseline is not here", where=str(_SCRIPT), remedy="run from a source tree"
        )
    warm: list[float] = []
    cold: list[float] = []
    steps: list[float] = []
    for number in range(rounds):
        narrate(f"round {number + 1} of {rounds} ...")
        seconds, step_s = _warm()
        warm += seconds
        steps.append(step_s)
        cold += _cold()
    ratio = median(cold) / median(warm)
    return [
        Row(
            name="from SIGKILL to the first new step, warm, p50",
            value=median(warm),
            unit="s",
            rounds=len(warm),
            interval=median_interval(warm),
            target=f"<= {MOST_S:g}",
            met=median(warm) <= MOST_S,
            note=f"a step takes {median(steps):.3f} s, so {median(warm) / median(steps):.0f} steps",
        ),
        Row(
            name="the same by torchrun, cold, over ours",
            value=median(cold),
            unit="s",
            rounds=len(cold),
            baseline=median(warm),
            ratio=ratio,
            interval=ratio_interval(cold, warm),
            target=f">= {LEAST_RATIO:g} x",
            met=ratio >= LEAST_RATIO,
        ),
    ]


def _config() -> RunConfig:
    from engine.training.config import RunConfig

    given = {"train": {"steps": _STEPS}, "checkpoint": {"every": 0}, "resilience": MANY_FAULTS}
    return resolve(RunConfig, [("the small job", SMALL_JOB), ("the benchmark", given)]).value


def _warm() -> tuple[list[float], float]:
    """Seconds from each kill to the first new step; and of a step."""
    faults = tuple(f"sigkill:rank=1,step={step}" for step in _KILLS)
    drill = Drill(config=_config(), faults=faults, standbys=0)
    outcome = read_outcome(
        bench_home(), run_drill(drill, home=bench_home(), narrate=lambda _: None)
    )
    seconds = [each.productive_after_s for each in outcome.faults]
    if outcome.status != "finished" or None in seconds or len(seconds) != len(_KILLS):
        raise RunFailed(f"the job did not recover: {outcome.reason}", where=outcome.run_id)
    with open_store(bench_home()) as store:
        [(step_s,)] = store.rows(
            "SELECT median(duration_s) FROM steps WHERE run_id = ?", [outcome.run_id]
        )
    return [each for each in seconds if each is not None], float(step_s)


def _cold() -> list[float]:
    with tempfile.TemporaryDirectory() as directory:
        task, log = Path(directory) / "task.json", Path(directory) / "log"
        task.write_text(json.dumps(_task()), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(_RANKS), "--max-restarts", str(len(_KILLS))),
            *("--monitor-interval", "0.1", str(_SCRIPT), str(task), str(log)),
        ]
        ran = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(_SOURCES), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise RunFailed(f"the plain loop failed: {ran.stderr[-600:]}", where=str(_SCRIPT))
        return recoveries(log.read_text(encoding="utf-8"))


def _task() -> dict[str, Any]:
    config = _config()
    return {
        **config.model.model_dump(),
        "seq_len": config.data.seq_len,
        "batch_size": config.train.batch_size,
        "steps": _STEPS,
        "kills": list(_KILLS),
        "every": config.resilience.snapshot_every,
    }


def recoveries(log: str) -> list[float]:
    """Seconds from each ``killed`` to the first step beyond all that had been done."""
    found: list[float] = []
    best, killed_s = 0, None
    for line in log.splitlines():
        what, _, at = line.partition(" ")
        if what == "killed":
            killed_s = float(at)
        elif int(what) > best:
            best = int(what)
            if killed_s is not None:
                found.append(float(at) - killed_s)
                killed_s = None
    return found
