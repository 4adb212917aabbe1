"""A rank killed every minute for twenty minutes, against what the simulator said before.

The prediction is a committed file, ``benchmarks/results/*-endurance-prediction.json``: what
``opsuite simulate train --json`` printed, with measured costs, before the run it is compared with.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collectors.configuration import resolve
from collectors.errors import RunFailed
from engine.supervision.driver_process import RESULT
from engine.supervision.job_spec import DRIVER
from opsuite.bench.home import bench_home
from opsuite.bench.recovery import MANY_FAULTS
from opsuite.bench.result import Row
from opsuite.drilling.scene import JobScene
from opsuite.drilling.small_job import SMALL_JOB
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.supervision.supervisor import Supervisor
    from engine.training.config import RunConfig

_RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
_EVERY_S = 60.0
LEAST, MOST_GAP, MOST_OFF = 0.80, 0.005, 0.03


def measure(rounds: int) -> list[Row]:
    """``rounds`` minutes with a kill in each."""
    from engine.supervision.launching import launch_resilient

    kills: list[float] = []

    @contextmanager
    def accompany(supervisor: Supervisor) -> Iterator[None]:
        over = threading.Event()
        killer = threading.Thread(target=_kill, args=(supervisor, rounds, kills, over))
        killer.start()
        try:
            yield
        finally:
            over.set()
            killer.join()

    result = launch_resilient(
        _config(),
        home=bench_home(),
        command=["opsuite", "bench", "endurance"],
        narrate=narrate,
        accompany=accompany,
    )
    told = json.loads((result.run.path / DRIVER / RESULT).read_text(encoding="utf-8"))
    if told["status"] != "stopped":
        raise RunFailed(f"the job ended: {told['reason']}", where=str(result.run.path))
    return _rows(told, len(kills), rounds)


def _kill(supervisor: Supervisor, minutes: int, kills: list[float], over: threading.Event) -> None:
    """One random rank in each minute from the first step on, then stop the job."""
    from engine.supervision.control import ask

    scene = JobScene(supervisor.run, supervisor, None)
    chance = random.Random(1)  # noqa: S311 - repeatable on purpose
    while not scene.step() and not over.wait(0.1):
        pass
    begun = time.monotonic()
    for minute in range(minutes):
        moment = begun + (minute + chance.random()) * _EVERY_S
        if over.wait(max(0.0, moment - time.monotonic())):
            return
        try:
            os.kill(scene.rank_pid(chance.randrange(4)), signal.SIGKILL)
        except ProcessLookupError:
            continue  # it is being started just now
        kills.append(time.monotonic() - begun)
    over.wait(max(0.0, begun + minutes * _EVERY_S - time.monotonic()))
    ask(supervisor.run, "stop", why="the time is over")


def _config() -> RunConfig:
    from engine.training.config import RunConfig

    given: dict[str, Any] = {
        "name": "endurance",
        "train": {"steps": 1_000_000},
        "checkpoint": {"every": 500},
        "resilience": MANY_FAULTS,
    }
    return resolve(RunConfig, [("the small job", SMALL_JOB), ("the benchmark", given)]).value


def _rows(told: dict[str, Any], kills: int, minutes: int) -> list[Row]:
    effective, predicted = told["effective"], _prediction()
    spent = ", ".join(f"{cause} {seconds:.1f} s" for cause, seconds in told["spent_s"].items())
    off = None if predicted is None else abs(effective - predicted)
    return [
        Row(
            name=f"effective training time, {kills} kills in {minutes} minutes",
            value=effective,
            unit="of the wall clock",
            rounds=1,
            target=f">= {LEAST:g}",
            met=effective >= LEAST,
            note=f"{told['attempts']} attempts; {spent}",
        ),
        Row(
            name="the wall clock that the ledger's causes miss",
            value=told["gap"],
            unit="of it",
            rounds=1,
            target=f"<= {MOST_GAP:g}",
            met=told["gap"] <= MOST_GAP,
        ),
        Row(
            name="by how much the simulator's prediction was off",
            value=off,
            unit="of the wall clock",
            rounds=1,
            baseline=predicted,
            target=f"<= {MOST_OFF:g}",
            met=None if off is None else off <= MOST_OFF,
            note="" if predicted is not None else "no prediction is committed",
        ),
    ]


def _prediction() -> float | None:
    """Of the newest committed file."""
    files = sorted(_RESULTS.glob("*-endurance-prediction.json"))
    if not files:
        return None
    document = json.loads(files[-1].read_text(encoding="utf-8"))
    return float(document["practices"][0]["effective"]["value"])
