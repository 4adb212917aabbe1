"""What recording costs: a span in its caller, and a training step that records."""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

from collectors.clock import host_name
from collectors.recorder import Identity, open_recorder
from opsuite.bench.recording_rank import output_path
from opsuite.bench.result import Row
from opsuite.bench.rounds import interleave, median_interval, ratio_interval
from opsuite.bench.training import trained_run
from opsuite.demo import CONFIG
from opsuite.output import narrate

if TYPE_CHECKING:
    from collectors.recorder import Recorder

MAX_SPAN_US = 1.2
MAX_STEP_SHARE = 0.01
_SPANS = 20_000  # a round
_STEPS_PER_ROUND = 10  # half of them recorded
_WARM_UP_STEPS = 4


def measure(rounds: int) -> list[Row]:
    """Spans over ``rounds`` interleaved rounds; then one run that records every other step."""
    return [*_span_rows(rounds), _step_row(rounds)]


def _span_rows(rounds: int) -> list[Row]:
    identity = Identity(
        run_id="bench", role="trainer", rank=0, world_size=1, host=host_name(), coordinates={}
    )
    tails: list[float] = []
    with (
        tempfile.TemporaryDirectory() as spool,
        closing(open_recorder(Path(spool), identity)) as recorder,
    ):

        def spans() -> float:
            costs = _span_costs(recorder)
            tails.append(float(np.quantile(costs, 0.999)))
            return float(np.median(costs))

        figures = interleave({"span": spans, "timer": _timer_cost}, rounds)
    value, timer = median(figures["span"]), median(figures["timer"])
    return [
        Row(
            name="a span in its caller, p50, timer included",
            value=value,
            unit="us",
            rounds=rounds,
            interval=median_interval(figures["span"]),
            target=f"<= {MAX_SPAN_US} us",
            met=value <= MAX_SPAN_US,
            note=f"the timer alone takes {timer:.2f} us of it",
        ),
        Row(
            name="a span in its caller, p99.9",
            value=median(tails),
            unit="us",
            rounds=rounds,
            interval=median_interval(tails),
        ),
    ]


def _span_costs(recorder: Recorder) -> np.ndarray:
    """What each of many spans took, in microseconds."""
    costs = np.empty(_SPANS)
    for index in range(_SPANS):
        start = perf_counter_ns()
        with recorder.span("forward", index):
            pass
        costs[index] = perf_counter_ns() - start
    return costs / 1e3


def _timer_cost() -> float:
    """What the same loop measures around nothing, in microseconds."""
    costs = np.empty(_SPANS)
    for index in range(_SPANS):
        start = perf_counter_ns()
        costs[index] = perf_counter_ns() - start
    return float(np.median(costs)) / 1e3


def _step_row(rounds: int) -> Row:
    """Steps with and without recording, in turn, in both ranks of one tensor-parallel run."""
    from collectors.configuration import resolve
    from engine.training.config import RunConfig
    from tui.progress import show_progress

    steps = rounds * _STEPS_PER_ROUND + _WARM_UP_STEPS
    given = {"name": "recorder", "train": {"steps": steps}}
    config = resolve(RunConfig, [("the demo", CONFIG), ("the benchmark", given)]).value
    run = trained_run(
        config,
        narrate=narrate,
        watch=lambda run: show_progress(run, total_steps=steps),
        worker="opsuite.bench.recording_rank",
    )
    ranks = [
        json.loads(output_path(run.path, rank).read_text())
        for rank in range(config.parallel.world_size)
    ]
    skip = _WARM_UP_STEPS // 2
    recorded = [seconds for rank in ranks for seconds in rank["on"][skip:]]
    silent = [seconds for rank in ranks for seconds in rank["off"][skip:]]
    ratio = median(recorded) / median(silent)
    low, high = ratio_interval(recorded, silent)
    return Row(
        name="a training step (tp=2) that records, over one that does not",
        value=median(recorded),
        unit="s",
        rounds=len(recorded),
        baseline=median(silent),
        ratio=ratio,
        interval=(low, high),
        target=f"< {1 + MAX_STEP_SHARE}",
        met=ratio < 1 + MAX_STEP_SHARE,
        note="steps alternate within one run; both ranks count",
    )
