"""What a checkpoint costs training: the wait for its first stage, the steps beside its second."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from collectors.configuration import resolve
from collectors.daemon.access import open_store
from opsuite.bench.home import bench_home
from opsuite.bench.result import Row
from opsuite.bench.rounds import interval_of, median_interval
from opsuite.bench.training import trained_run
from opsuite.demo import CONFIG
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.training.config import RunConfig

MOST_BLOCKED, MOST_SLOWER = 0.05, 1.02
_BESIDE = 10  # steps after a checkpoint that are compared with as many after those
_TOKENS = 4096


def measure(rounds: int) -> list[Row]:
    """One run with ``rounds`` checkpoints: ten steps after each, ten without, and so on."""
    run = trained_run(_config(rounds), narrate=narrate)
    with open_store(bench_home()) as store:
        steps = store.rows(
            "SELECT step, duration_s FROM steps WHERE run_id = ? ORDER BY step", [run.run_id]
        )
        phases = store.rows(
            "SELECT duration_s FROM phases WHERE run_id = ? AND phase = 'checkpoint' AND step < ?",
            [run.run_id, len(steps)],
        )
        [(terms,)] = store.rows(
            "SELECT attributes ->> 'parameters' FROM events WHERE run_id = ?"
            " AND name = 'accounting'",
            [run.run_id],
        )
    seconds = [float(duration) for _, duration in steps]
    blocked = [float(duration) for (duration,) in phases]
    beside, apart = _halves(seconds, rounds)
    step = median(apart)
    shares = [each / step for each in blocked]
    slower = _slower(beside, apart)
    size = f"{int(terms) / 1e6:.0f}M parameters that multiply, {_TOKENS} tokens a step"
    return [
        Row(
            name=f"{size}: blocked by a checkpoint",
            value=median(shares),
            unit="of a step",
            rounds=len(shares),
            interval=median_interval(shares),
            target=f"<= {MOST_BLOCKED}",
            met=median(shares) <= MOST_BLOCKED,
            note=f"{median(blocked):.2f} s; a step takes {step:.2f} s",
        ),
        Row(
            name=f"{size}: the {_BESIDE} steps after it, over the {_BESIDE} after those",
            value=slower,
            unit="x",
            rounds=len(beside),
            interval=interval_of(_slower, beside, apart),
            target=f"<= {MOST_SLOWER}",
            met=slower <= MOST_SLOWER,
        ),
    ]


def _slower(beside: Sequence[float], apart: Sequence[float]) -> float:
    return float(median(beside)) / float(median(apart))


def _halves(seconds: Sequence[float], rounds: int) -> tuple[list[float], list[float]]:
    """Mean seconds of a step right after each checkpoint, and of the ones later."""
    beside, apart = [], []
    for number in range(1, rounds + 1):
        first = number * 2 * _BESIDE
        beside.append(sum(seconds[first : first + _BESIDE]) / _BESIDE)
        apart.append(sum(seconds[first + _BESIDE : first + 2 * _BESIDE]) / _BESIDE)
    return beside, apart


def _config(rounds: int) -> RunConfig:
    from engine.training.config import RunConfig

    given = {
        "name": "checkpoint",
        "model": {
            "vocab_size": 16_384,
            "hidden_size": 512,
            "n_layers": 12,
            "n_heads": 8,
            "n_kv_heads": 8,
            "intermediate_size": 1408,
            "max_seq_len": 256,
        },
        "data": {"seq_len": 256},
        "train": {"steps": (rounds + 1) * 2 * _BESIDE, "batch_size": _TOKENS // 256},
        "checkpoint": {"every": 2 * _BESIDE, "keep": 1},
        "parallel": {"tp": 1, "dp": 1, "device": "cpu", "threads_per_rank": 2},
    }
    return resolve(RunConfig, [("the demo", CONFIG), ("the benchmark", given)]).value
