"""Our engine beside transformers: one CPU thread, the same model, greedy, the same tokens.

Ours is all of a server's engine but its sockets: scheduling, the cache, the choice of tokens.
transformers is a process of its own, at its best: ``generate`` on all at once or in batches of like
lengths, and continuous batching. Each generates in turn.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from collectors.errors import RunFailed, UsageError
from opsuite.bench.result import Row
from opsuite.bench.rounds import interleave, ratio_interval
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opsuite.bench.engine_alone import EngineAlone

_SOURCES = Path(__file__).parents[2]
_SCRIPT = _SOURCES / "benchmarks" / "baselines" / "hf_generate.py"
_VOCABULARY = 4096
_REQUESTS, _PROMPT = 16, 128
_SHORTEST, _LONGEST = 16, 256
_SINGLE = 128  # tokens of the one stream
_WAYS = ("batched", "halves", "continuous")
_NEAR = 2.0  # times the best way's seconds: others cannot turn out to be better
_LEAST = {True: 2.0, False: 1.2}  # of many requests, of one


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model."""

    hidden_size: int
    n_layers: int

    def __str__(self) -> str:
        return f"d {self.hidden_size}, {self.n_layers} layers"


SHAPES = (Shape(hidden_size=256, n_layers=4), Shape(hidden_size=512, n_layers=8))


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is generated.

    Attributes:
        lengths: tokens to generate of each prompt.
        single: and of the first one, alone.
    """

    prompts: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    single: int

    @classmethod
    def drawn(cls, seed: int) -> Task:
        """By chance; lengths of all sizes."""
        chance = random.Random(seed)  # noqa: S311 - of a benchmark
        return cls(
            prompts=tuple(
                tuple(chance.randrange(1, _VOCABULARY) for _ in range(_PROMPT))
                for _ in range(_REQUESTS)
            ),
            lengths=tuple(chance.randint(_SHORTEST, _LONGEST) for _ in range(_REQUESTS)),
            single=_SINGLE,
        )


def measure(rounds: int) -> list[Row]:
    """Output tokens a second of each at each shape."""
    rows: list[Row] = []
    for shape in SHAPES:
        narrate(f"{shape} ...")
        with tempfile.TemporaryDirectory() as directory:
            rows += _rows(shape, Path(directory), rounds)
    return rows


def _rows(shape: Shape, directory: Path, rounds: int) -> list[Row]:
    from opsuite.bench.engine_alone import EngineAlone

    task = Task.drawn(seed=0)
    make_model(directory / "model", shape)
    file = directory / "task.json"
    file.write_text(json.dumps(asdict(task)), encoding="utf-8")
    ours = EngineAlone(directory / "model", max_batch=_REQUESTS, max_len=_PROMPT + _LONGEST)
    with _transformers(directory / "model", file) as theirs:
        batch = _Contest(ours, theirs, task.prompts, task.lengths, _WAYS)
        single = _Contest(ours, theirs, task.prompts[:1], (task.single,), ("single",))
        return [
            batch.row(f"{shape}, {_REQUESTS} at once", rounds),
            single.row(f"{shape}, one", rounds),
        ]


def make_model(directory: Path, shape: Shape, *, context: int = 1024) -> None:
    """A Hugging Face directory with random weights and no tokenizer."""
    from engine.models.config import ModelConfig
    from engine.models.huggingface import save_pretrained
    from engine.models.initialization import initialize
    from engine.models.transformer import Transformer

    heads = shape.hidden_size // 64
    config = ModelConfig(
        vocab_size=_VOCABULARY,
        hidden_size=shape.hidden_size,
        n_layers=shape.n_layers,
        n_heads=2 * heads,
        n_kv_heads=heads,
        intermediate_size=shape.hidden_size * 11 // 4,
        max_seq_len=context,
    )
    network = Transformer(config)
    initialize(network, seed=0)
    directory.mkdir()
    save_pretrained(directory, config, dict(network.named_parameters()), None)


class Theirs:
    """transformers' process, which generates when it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def generate(self, way: str) -> tuple[float, list[list[int]]]:
        """Seconds, and the new tokens of each prompt; RunFailed: it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{way}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RunFailed("transformers has ended", where=str(_SCRIPT), remedy="see above why")
        answer = json.loads(line)
        return answer["seconds"], answer["tokens"]


@contextmanager
def _transformers(model: Path, task: Path) -> Iterator[Theirs]:
    if not _SCRIPT.is_file():
        raise UsageError(
            "the baselines are not here", where=str(_SCRIPT), remedy="run from a source tree"
        )
    command = [sys.executable, "-P", str(_SCRIPT), str(model), str(task)]
    environment = {**os.environ, "PYTHONPATH": str(_SOURCES), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Theirs(process)


class _Contest:
    """The same prompts by us, and by them in several ways."""

    def __init__(
        self,
        ours: EngineAlone,
        theirs: Theirs,
        prompts: Sequence[Sequence[int]],
        lengths: Sequence[int],
        ways: Sequence[str],
    ) -> None:
        self._ours, self._theirs, self._ways = ours, theirs, ways
        self._prompts, self._lengths = prompts, lengths

    def row(self, name: str, rounds: int) -> Row:
        """Ours over their best way."""
        seconds = self._seconds(rounds)
        ours, tokens = seconds.pop("ours"), sum(self._lengths)
        best = min(seconds, key=lambda way: median(seconds[way]))
        ratio = median(seconds[best]) / median(ours)
        least = _LEAST[len(self._prompts) > 1]
        others = ", ".join(f"{way} {tokens / median(of):.0f}" for way, of in seconds.items())
        return Row(
            name=f"{name}: opsuite over transformers",
            value=tokens / median(ours),
            unit="tokens/s",
            rounds=rounds,
            baseline=tokens / median(seconds[best]),
            ratio=ratio,
            interval=ratio_interval(seconds[best], ours),
            target=f">= {least}x",
            met=ratio >= least,
            note=f"float32, one thread, equal greedy tokens; tokens/s by {others}",
        )

    def _seconds(self, rounds: int) -> dict[str, list[float]]:
        """Of each in each round; of those ways that come near the best, when each is tried."""
        tried = self._tried()
        near = [way for way, seconds in tried.items() if seconds < _NEAR * min(tried.values())]
        variants = {way: partial(self._by_them, way) for way in near}
        return interleave({"ours": self._by_us, **variants}, rounds)

    def _tried(self) -> dict[str, float]:
        """Seconds of each of their ways, once warm.

        Raises:
            RunFailed: one gives other tokens: two different things would be measured.
        """
        _, own = self._ours.generate(self._prompts, self._lengths)
        tried = {}
        for way in self._ways:
            if self._theirs.generate(way)[1] != own:
                raise RunFailed(f"transformers ({way}) gives other tokens than we do")
            tried[way] = self._by_them(way)
            narrate(f"  {way}: {sum(self._lengths) / tried[way]:.0f} tokens/s")
        return tried

    def _by_us(self) -> float:
        return self._ours.generate(self._prompts, self._lengths)[0]

    def _by_them(self, way: str) -> float:
        return self._theirs.generate(way)[0]
