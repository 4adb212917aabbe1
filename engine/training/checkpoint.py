"""Checkpoints on disk: Hugging Face directories with the optimiser's state beside the weights.

``step-000100/`` holds what ``transformers`` loads (config.json, model.safetensors, tokenizer), and
``optimizer.safetensors`` and ``trainer.json``, which is written last and has every file's checksum.
A checkpoint is written as ``step-000100.tmp``, flushed to the disk, and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from collectors.errors import DataError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.models.config import ModelConfig
    from engine.training.state import TrainingState

_FORMAT = 1
_STEP = re.compile(r"step-(\d{6,})")
_MOMENTS = "optimizer.safetensors"
_TRAINER = "trainer.json"
_UNFINISHED = ".tmp"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose files are whole.

    Attributes:
        path: its directory.
        step: the last step it contains.
        corpus: key of the corpus it learned from.
    """

    path: Path
    step: int
    corpus: str


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        directory: holds one directory per checkpoint.
        keep: how many of the newest stay.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._keep = keep

    def save(
        self,
        state: TrainingState,
        *,
        step: int,
        model: ModelConfig,
        tokenizer_json: str,
        corpus: str,
    ) -> Path:
        """Publish the state after ``step`` as a whole, or nothing at all; older ones make room.

        Raises:
            StorageError: the disk refused; earlier checkpoints are untouched.
        """
        final = self._directory / f"step-{step:06d}"
        aside = final.with_name(final.name + _UNFINISHED)
        try:
            self._clear_unfinished()
            aside.mkdir(parents=True)
            _write(aside, state, model, tokenizer_json)
            _write_trainer(aside, {"step": step, "corpus": corpus})
            if final.exists():  # written by a longer attempt that the run has since gone back from
                shutil.rmtree(final)
            aside.rename(final)
            _flush(self._directory)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise StorageError.from_os_error(error, f"saving {final.name}") from error
        self._make_room(final)
        return final

    def paths(self) -> list[Path]:
        """Checkpoints, newest first, whether they are whole or not."""
        if not self._directory.is_dir():
            return []
        found = [p for p in self._directory.iterdir() if _STEP.fullmatch(p.name)]
        return sorted(found, key=_step_of, reverse=True)

    def check_all(self) -> Iterator[Checkpoint | DataError]:
        """Newest first: each checkpoint, or what is wrong with it."""
        for path in self.paths():
            try:
                yield check(path)
            except DataError as error:
                yield error

    def _make_room(self, newest: Path) -> None:
        # Later steps than the newest belong to an attempt that the run has gone back from.
        others = [p for p in self.paths() if p != newest]
        stale = [p for p in others if _step_of(p) > _step_of(newest)]
        older = [p for p in others if _step_of(p) < _step_of(newest)]
        for path in stale + older[self._keep - 1 :]:
            shutil.rmtree(path, ignore_errors=True)

    def _clear_unfinished(self) -> None:
        for path in self._directory.glob(f"*{_UNFINISHED}"):
            shutil.rmtree(path, ignore_errors=True)


def check(path: Path) -> Checkpoint:
    """Compare every file of a checkpoint with its recorded size and checksum.

    Raises:
        DataError: a file is missing, truncated or altered.
    """
    description = _read_trainer(path / _TRAINER)
    for name, expected in description["files"].items():
        _check_file(path / name, expected)
    return Checkpoint(path=path, step=description["step"], corpus=description["corpus"])


def load_state(path: Path) -> tuple[ModelConfig, TrainingState]:
    """Read a checkpoint's model shape and its whole tensors.

    Raises:
        DataError: a file is not what it should be.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from engine.models.huggingface import load_pretrained
    from engine.training.state import TrainingState

    model, weights = load_pretrained(path)
    try:
        moments = load_file(path / _MOMENTS)
    except (OSError, SafetensorError) as error:
        raise DataError(f"unreadable: {error}", where=str(path / _MOMENTS)) from None
    return model, TrainingState(weights=weights, moments=moments)


def _step_of(path: Path) -> int:
    match = _STEP.match(path.name)
    assert match is not None
    return int(match[1])


def _write(aside: Path, state: TrainingState, model: ModelConfig, tokenizer_json: str) -> None:
    from safetensors.torch import save

    from engine.models.huggingface import save_pretrained

    save_pretrained(aside, model, state.weights, tokenizer_json)
    (aside / _MOMENTS).write_bytes(save(state.moments))


def _write_trainer(aside: Path, facts: dict[str, Any]) -> None:
    files = {p.name: _fingerprint(p) for p in sorted(aside.iterdir())}
    text = json.dumps({"format": _FORMAT, **facts, "files": files}, indent=2)
    (aside / _TRAINER).write_text(text, encoding="utf-8")
    for path in (*aside.iterdir(), aside):
        _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _check_file(path: Path, expected: dict[str, Any]) -> None:
    try:
        found = _fingerprint(path)
    except FileNotFoundError:
        raise DataError("the checkpoint lacks a file", where=str(path)) from None
    except OSError as error:
        raise DataError(f"unreadable: {error.strerror}", where=str(path)) from None
    if found["bytes"] != expected["bytes"]:
        raise DataError(
            f"the file has {found['bytes']} bytes instead of {expected['bytes']}", where=str(path)
        )
    if found["sha256"] != expected["sha256"]:
        raise DataError("the file's content was altered (checksum)", where=str(path))


def _read_trainer(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        whole = description["format"] == _FORMAT and {"step", "corpus", "files"} <= set(description)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"no usable description ({error})", where=str(path)) from None
    if not whole:
        raise DataError("written by another version of opsuite", where=str(path))
    return dict(description)
