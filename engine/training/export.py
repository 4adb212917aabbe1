"""A checkpoint as a Hugging Face directory, for any step that was kept."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from collectors.errors import StorageError
from engine.models.huggingface import load_config, model_shapes, save_pretrained
from engine.training.checkpoint import STATE, flush
from engine.training.restoring import read_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from engine.training.checkpoint import Checkpoint

_SOURCE = "checkpoint.txt"


def export_model(checkpoint: Checkpoint, directory: Path) -> Path:
    """Write what ``transformers`` loads; weights alone are read, a few at a time.

    Args:
        directory: is made, and appears when it is whole; what was there goes.

    Raises:
        DataError: the checkpoint is damaged.
        StorageError: the disk refused; nothing was left.
    """
    tokenizer = checkpoint.path / "tokenizer.json"
    aside = directory.with_name(f".{directory.name}.tmp")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        text = tokenizer.read_text(encoding="utf-8") if tokenizer.is_file() else None
        weights = StoredWeights(checkpoint)
        save_pretrained(aside, load_config(checkpoint.path), weights, text)
        (aside / _SOURCE).write_text(f"{checkpoint.path.name}\n", encoding="utf-8")
        for path in (*aside.iterdir(), aside):
            flush(path)
        if directory.exists():
            shutil.rmtree(directory)
        aside.rename(directory)
    except OSError as error:
        raise StorageError.from_os_error(error, f"writing {directory}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return directory


def exported(checkpoint: Checkpoint, directory: Path, narrate: Callable[[str], None]) -> Path:
    """The model directory of ``checkpoint``; it is written unless it is there."""
    if _source(directory) != checkpoint.path.name:
        narrate(f"writing the model of {checkpoint.path.name}")
        export_model(checkpoint, directory)
    return directory


def _source(directory: Path) -> str:
    """Which checkpoint a model directory was made of."""
    try:
        return (directory / _SOURCE).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


class StoredWeights(Mapping[str, "Tensor"]):
    """Whole tensors by name, each read when it is asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._state = checkpoint.path / STATE
        self._shapes = model_shapes(load_config(checkpoint.path))

    def __getitem__(self, name: str) -> Tensor:
        tensor = torch.empty(self._shapes[name])
        read_tensors(self._state, {name: tensor})
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
