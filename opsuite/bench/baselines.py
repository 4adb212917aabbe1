"""One process: opsuite's trainer, recorder and all, beside a plain loop and Hugging Face's Trainer.

All train the same model on the same tokens in float32 with the same attention (torch's), fused
AdamW, the same threads. Each measurement is a process of its own; their steps are compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from collectors.configuration import resolve
from collectors.daemon.access import open_store
from collectors.errors import RunFailed, UsageError
from opsuite.bench.home import bench_home
from opsuite.bench.result import Row
from opsuite.bench.rounds import interleave, ratio_interval
from opsuite.demo import CONFIG
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.training.config import RunConfig

_SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "baselines"
_WARM_UP, _STEPS = 2, 5
_THREADS = 2


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and a batch."""

    hidden_size: int
    n_layers: int
    vocab_size: int
    seq_len: int = 512
    batch_size: int = 4

    def __str__(self) -> str:
        return (
            f"d {self.hidden_size}, {self.n_layers} layers, vocabulary {self.vocab_size:,},"
            f" {self.batch_size} x {self.seq_len} tokens"
        )


SHAPES = (
    Shape(hidden_size=512, n_layers=6, vocab_size=32_000),
    Shape(hidden_size=512, n_layers=6, vocab_size=4096),
    Shape(hidden_size=768, n_layers=4, vocab_size=32_000),
)
_TARGETS = {("torch", "plain"): 0.98, ("torch", "hf"): 1.0, ("compiled", "hf"): 1.2}
_OURS = {"torch": "opsuite", "compiled": "opsuite with compiled regions"}
_THEIRS = {"plain": "a plain loop without recorder", "hf": "Hugging Face's Trainer, eager"}


def measure(rounds: int) -> list[Row]:
    """Tokens a second of each, A B C D and back, at each shape."""
    rows: list[Row] = []
    for shape in SHAPES:
        narrate(f"{shape} ...")
        seconds = interleave(_variants(shape), rounds)
        tokens = shape.batch_size * shape.seq_len
        for (ours, theirs), least in _TARGETS.items():
            value, baseline = (tokens / median(seconds[name]) for name in (ours, theirs))
            rows.append(
                Row(
                    name=f"{shape}: {_OURS[ours]} over {_THEIRS[theirs]}",
                    value=value,
                    unit="tokens/s",
                    rounds=rounds,
                    baseline=baseline,
                    ratio=value / baseline,
                    interval=ratio_interval(seconds[theirs], seconds[ours]),
                    target=f">= {least}",
                    met=value / baseline >= least,
                    note=f"float32, SDPA, fused AdamW, {_THREADS} threads, gradient limit 1",
                )
            )
    return rows


def _variants(shape: Shape) -> Mapping[str, Callable[[], float]]:
    return {
        "torch": lambda: _ours(shape, "torch"),
        "plain": lambda: _script("plain_loop.py", shape),
        "compiled": lambda: _ours(shape, "compiled"),
        "hf": lambda: _script("hf_trainer.py", shape),
    }


def _config(shape: Shape, operators: str) -> RunConfig:
    from engine.training.config import RunConfig

    heads = shape.hidden_size // 64
    given = {
        "name": "baselines",
        "model": {
            "vocab_size": shape.vocab_size,
            "hidden_size": shape.hidden_size,
            "n_layers": shape.n_layers,
            "n_heads": heads,
            "n_kv_heads": heads,
            "intermediate_size": _inside(shape),
            "max_seq_len": shape.seq_len,
        },
        "data": {"seq_len": shape.seq_len},
        "train": {
            "steps": _WARM_UP + _STEPS + 1,  # the last is there to see where the one before ended
            "batch_size": shape.batch_size,
            "operators": operators,
        },
        "parallel": {"tp": 1, "dp": 1, "device": "cpu", "threads_per_rank": _THREADS},
    }
    return resolve(RunConfig, [("the demo", CONFIG), ("the benchmark", given)]).value


def _inside(shape: Shape) -> int:
    return shape.hidden_size * 8 // 3 // 64 * 64


def _ours(shape: Shape, operators: str) -> float:
    """Median seconds from one step's beginning to the next, in a run's own record."""
    from engine.training.launcher import launch

    home = bench_home()
    config = _config(shape, operators)
    run = launch(config, home=home, command=["opsuite", "bench"], narrate=lambda _: None).run
    with open_store(home) as store:
        rows = store.rows(
            "SELECT start_ns FROM steps WHERE run_id = ? AND step > ? ORDER BY step",
            [run.run_id, _WARM_UP],
        )
    begun = [int(start) for (start,) in rows]
    if len(begun) != _STEPS + 1:
        raise RunFailed("the run to measure did not finish", where=str(run.path))
    return median((later - earlier) / 1e9 for earlier, later in pairwise(begun))


def _script(name: str, shape: Shape) -> float:
    """Median seconds of a baseline's steps."""
    script = _SCRIPTS / name
    if not script.is_file():
        raise UsageError(
            "the baselines are not here", where=str(script), remedy="run from a source tree"
        )
    with tempfile.TemporaryDirectory() as directory:
        task = Path(directory) / "task.json"
        task.write_text(json.dumps(_task(shape)), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-P", str(script), str(task)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RunFailed(f"{name} failed: {done.stderr[-500:]}", where=str(script))
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return median(seconds[_WARM_UP:])


def _task(shape: Shape) -> dict[str, Any]:
    """The same for others; the tokens are those that opsuite has prepared."""
    from engine.training.corpus import Vocabulary, prepare_corpus

    corpus = prepare_corpus(
        _config(shape, "torch").data,
        Vocabulary(size=shape.vocab_size),
        bench_home() / "cache" / "corpus",
        lambda _: None,
    )
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "n_layers": shape.n_layers,
        "n_heads": shape.hidden_size // 64,
        "intermediate_size": _inside(shape),
        "seq_len": shape.seq_len,
        "batch_size": shape.batch_size,
        "steps": _WARM_UP + _STEPS,
        "threads": _THREADS,
        "tokens": str(corpus.directory / "tokens.bin"),
        "dtype": corpus.dtype,
    }
