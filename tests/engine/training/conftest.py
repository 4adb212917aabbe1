"""A model and a corpus so small that a step takes a few milliseconds."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from collectors.configuration import resolve
from engine.training.config import RunConfig

if TYPE_CHECKING:
    from pathlib import Path

_WORDS = ("def", "return", "class", "import", "self", "value", "for", "in", "range", "if", "yield")


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 30 kB of words that look like a program."""
    generator = random.Random(7)
    path: Path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(generator.choices(_WORDS, k=6000)), encoding="utf-8")
    return path


class TinyRun:
    """Makes configurations of tiny runs over one text."""

    def __init__(self, text: Path) -> None:
        self._text = text

    def __call__(self, **sections: dict[str, Any]) -> RunConfig:
        base: dict[str, Any] = {
            "name": "tiny",
            "model": {
                "vocab_size": 300,
                "hidden_size": 32,
                "n_layers": 2,
                "n_heads": 4,
                "n_kv_heads": 2,
                "intermediate_size": 48,
                "max_seq_len": 32,
            },
            "data": {"paths": [str(self._text)], "seq_len": 32},
            "train": {"steps": 20, "batch_size": 4},
            "optimizer": {"warmup_steps": 4, "decay_steps": 20},
            "parallel": {"device": "cpu"},
        }
        return resolve(RunConfig, [("tiny", base), ("the test", sections)]).value


@pytest.fixture(scope="session")
def tiny_run(text_file: Path) -> TinyRun:
    return TinyRun(text_file)
