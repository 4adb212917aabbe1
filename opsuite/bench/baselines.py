"""One process: opsuite's trainer, recorder and all, beside a plain loop and Hugging Face's Trainer.

All train the same model on the same tokens in the same precision with the same attention
(torch's), fused AdamW, the same threads. In bfloat16 all keep float32 weights: the others by
torch.autocast. Each is a process of its own that trains a step when it is told to: one
step of each in turn, so that all share the machine's moods.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self

from collectors.configuration import resolve
from collectors.errors import RunFailed, UsageError
from opsuite.bench.home import bench_home
from opsuite.bench.result import Row
from opsuite.bench.rounds import interleave, interval_of
from opsuite.demo import CONFIG
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.training.config import RunConfig

_SOURCES = Path(__file__).parents[2]
_SCRIPTS = _SOURCES / "benchmarks" / "baselines"
_WARM_UP = 2
_THREADS = 2


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and a batch."""

    hidden_size: int
    n_layers: int
    vocab_size: int
    precision: str = "float32"
    seq_len: int = 512
    batch_size: int = 4

    def __str__(self) -> str:
        return (
            f"{self.precision}, d {self.hidden_size}, {self.n_layers} layers,"
            f" vocabulary {self.vocab_size:,},"
            f" {self.batch_size} x {self.seq_len} tokens"
        )


SHAPES = (
    Shape(hidden_size=512, n_layers=4, vocab_size=32_000),
    Shape(hidden_size=512, n_layers=6, vocab_size=4096),
    Shape(hidden_size=1024, n_layers=2, vocab_size=32_000),
    Shape(hidden_size=512, n_layers=4, vocab_size=32_000, precision="bfloat16"),
    Shape(hidden_size=512, n_layers=6, vocab_size=4096, precision="bfloat16"),
    Shape(hidden_size=1024, n_layers=4, vocab_size=4096, precision="bfloat16"),
)
_TARGETS = {("torch", "plain"): 0.98, ("torch", "hf"): 1.0, ("compiled", "hf"): 1.2}
_OURS = {"torch": "opsuite", "compiled": "opsuite with compiled regions"}
_THEIR_SCRIPTS = {"plain": "plain_loop.py", "hf": "hf_trainer.py"}
_THEIRS = {"plain": "a plain loop without recorder", "hf": "Hugging Face's Trainer, eager"}


def measure(rounds: int) -> list[Row]:
    """Tokens a second of each at each shape, a step of each in turn."""
    rows: list[Row] = []
    for shape in SHAPES:
        narrate(f"{shape} ...")
        with _trainers(shape, rounds) as trainers:
            interleave({name: each.step for name, each in trainers.items()}, _WARM_UP)
            seconds = interleave({name: each.step for name, each in trainers.items()}, rounds)
        rows += [_row(shape, seconds, *pair) for pair in _TARGETS]
    return rows


def _row(shape: Shape, seconds: Mapping[str, Sequence[float]], ours: str, theirs: str) -> Row:
    tokens = shape.batch_size * shape.seq_len
    value, baseline = (tokens / median(seconds[name]) for name in (ours, theirs))
    least = _TARGETS[ours, theirs]
    return Row(
        name=f"{shape}: {_OURS[ours]} over {_THEIRS[theirs]}",
        value=value,
        unit="tokens/s",
        rounds=len(seconds[ours]),
        baseline=baseline,
        ratio=value / baseline,
        interval=interval_of(_ratio, seconds[theirs], seconds[ours]),
        target=f">= {least}",
        met=value / baseline >= least,
        note=f"SDPA, fused AdamW, {_THREADS} threads, gradient limit 1",
    )


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return median(theirs) / median(ours)


@contextmanager
def _trainers(shape: Shape, rounds: int) -> Iterator[dict[str, Trainer]]:
    """All of them, each waiting for its first turn."""
    if not _SCRIPTS.is_dir():
        raise UsageError(
            "the baselines are not here", where=str(_SCRIPTS), remedy="run from a source tree"
        )
    steps = _WARM_UP + rounds
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        task = directory / "task.json"
        task.write_text(json.dumps(_task(shape, steps)), encoding="utf-8")
        commands: dict[str, list[str]] = {
            name: [str(_SCRIPTS / script), str(task)] for name, script in _THEIR_SCRIPTS.items()
        }
        for name in _OURS:
            config = directory / f"{name}.json"
            config.write_text(_config(shape, name, steps).model_dump_json(), encoding="utf-8")
            commands[name] = ["-m", "opsuite.bench.baselines_run", str(config)]
        yield {
            name: stack.enter_context(Trainer(command, directory / name, steps))
            for name, command in commands.items()
        }


class Trainer:
    """A process that trains a step whenever it is told to."""

    def __init__(self, command: list[str], pipes: Path, steps: int) -> None:
        self._command = [sys.executable, "-P", *command, str(pipes)]
        self._pipes = pipes
        self._left = steps

    def __enter__(self) -> Self:
        for end in ("go", "done"):
            os.mkfifo(f"{self._pipes}.{end}", 0o600)
        self._log = Path(f"{self._pipes}.log").open("wb")
        environment = {**os.environ, "PYTHONPATH": str(_SOURCES)}
        self._process = subprocess.Popen(
            self._command, stdout=self._log, stderr=self._log, env=environment
        )
        # Both ends at once: opening a pipe does not wait for a process that may have failed.
        self._go = os.open(f"{self._pipes}.go", os.O_RDWR)
        self._done = os.open(f"{self._pipes}.done", os.O_RDWR)
        return self

    def step(self) -> float:
        """Seconds of its next step.

        Raises:
            RunFailed: it has ended.
        """
        begun = time.perf_counter()
        os.write(self._go, b".")
        while not select.select([self._done], [], [], 1.0)[0]:
            if self._process.poll() is not None:
                log = Path(f"{self._pipes}.log").read_text(errors="replace")
                raise RunFailed(f"a trainer failed: {log[-600:]}", where=" ".join(self._command))
        os.read(self._done, 1)
        self._left -= 1
        return time.perf_counter() - begun

    def __exit__(self, *_: object) -> None:
        if self._left:
            self._process.terminate()
        else:
            os.write(self._go, b".")  # one that looks ahead may go on to its end
        self._process.wait()
        os.close(self._go)
        os.close(self._done)
        self._log.close()


def _config(shape: Shape, operators: str, steps: int) -> RunConfig:
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
            "steps": steps,
            "batch_size": shape.batch_size,
            "operators": operators,
            "precision": shape.precision,
        },
        "parallel": {"tp": 1, "dp": 1, "device": "cpu", "threads_per_rank": _THREADS},
    }
    return resolve(RunConfig, [("the demo", CONFIG), ("the benchmark", given)]).value


def _inside(shape: Shape) -> int:
    return shape.hidden_size * 8 // 3 // 64 * 64


def _task(shape: Shape, steps: int) -> dict[str, Any]:
    """The same for others; the tokens are those that opsuite has prepared."""
    from engine.training.corpus import Vocabulary, prepare_corpus

    corpus = prepare_corpus(
        _config(shape, "torch", steps).data,
        Vocabulary(size=shape.vocab_size),
        bench_home() / "cache" / "corpus",
        lambda _: None,
    )
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "n_layers": shape.n_layers,
        "n_heads": shape.hidden_size // 64,
        "n_kv_heads": shape.hidden_size // 64,
        "precision": shape.precision,
        "intermediate_size": _inside(shape),
        "seq_len": shape.seq_len,
        "batch_size": shape.batch_size,
        "steps": steps,
        "threads": _THREADS,
        "tokens": str(corpus.directory / "tokens.bin"),
        "dtype": corpus.dtype,
    }
