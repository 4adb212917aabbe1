"""Checkpoints on disk: every rank's part of the state, and a manifest that makes them one.

``step-000100/`` holds ``state/shard-*.safetensors`` (torch's distributed checkpoint in its Hugging
Face format: no pickle), ``config.json`` and ``tokenizer.json``, and ``trainer.json``, which is
written last and has every file's size and checksum. It is written as ``step-000100.tmp``, flushed
to the disk, and renamed: what bears the name is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from collectors.errors import DataError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

STATE = "state"
"""Where in a checkpoint the ranks' files are."""
_FORMAT = 2
_STEP = re.compile(r"step-(\d{6,})")
_TRAINER = "trainer.json"
_UNFINISHED = ".tmp"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far training had come.

    Attributes:
        step: the last step done.
        samples: sequences that were learned from, from the first epoch on.
        corpus: key of the corpus they are of.
    """

    step: int
    samples: int
    corpus: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that says it is whole.

    Attributes:
        path: its directory.
        progress: how far training had come.
    """

    path: Path
    progress: Progress

    @property
    def step(self) -> int:
        """The last step it contains."""
        return self.progress.step


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        directory: holds one directory per checkpoint.
        keep: how many of the newest stay.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._keep = keep

    def aside(self, step: int) -> Path:
        """Where the checkpoint after ``step`` is written before it is published."""
        return self._directory / f"step-{step:06d}{_UNFINISHED}"

    def prepare(self, step: int) -> None:
        """Make room to write; what earlier saves left unfinished goes.

        Raises:
            OSError: the disk refused.
        """
        for path in self._directory.glob(f"*{_UNFINISHED}"):
            shutil.rmtree(path, ignore_errors=True)
        (self.aside(step) / STATE).mkdir(parents=True)

    def publish(self, progress: Progress, fingerprints: Mapping[str, Fingerprint]) -> Path:
        """Give what was written its name; older checkpoints make room.

        Args:
            fingerprints: of the ranks' files, by their names within the checkpoint.

        Raises:
            OSError: the disk refused.
        """
        aside = self.aside(progress.step)
        final = aside.with_name(aside.name.removesuffix(_UNFINISHED))
        own = {p.name: fingerprint(p) for p in sorted(aside.iterdir()) if p.is_file()}
        files = {name: asdict(each) for name, each in {**own, **fingerprints}.items()}
        description = {"format": _FORMAT, **asdict(progress), "files": files}
        text = json.dumps({**description, "digest": _digest(description)}, indent=2)
        (aside / _TRAINER).write_text(text, encoding="utf-8")
        for path in (*(p for p in aside.iterdir() if p.is_file()), aside / STATE, aside):
            flush(path)
        if final.exists():  # written by a longer attempt that the run has since gone back from
            _remove(final)
        aside.rename(final)
        flush(self._directory)
        self._make_room(final)
        return final

    def abandon(self, step: int) -> None:
        """Take away what was written for the checkpoint after ``step``."""
        shutil.rmtree(self.aside(step), ignore_errors=True)

    def remove_after(self, step: int) -> None:
        """Take away checkpoints after later steps: the run has gone back from them.

        Raises:
            OSError: the disk refused.
        """
        for path in self.paths():
            if _step_of(path) > step:
                _remove(path)

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
            _remove(path)


def newest_step(directory: Path) -> int:
    """The last step of the newest checkpoint in ``directory``, whole or not; 0: there is none."""
    return max((_step_of(path) for path in CheckpointStore(directory, 1).paths()), default=0)


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a file must be."""

    bytes: int
    sha256: str


def fingerprint(path: Path) -> Fingerprint:
    """Of a file as it is."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Fingerprint(bytes=path.stat().st_size, sha256=digest)


def flush(path: Path) -> None:
    """Have the disk hold a file, or a directory's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check(path: Path) -> Checkpoint:
    """Compare every file of a checkpoint with its recorded size and checksum.

    Raises:
        DataError: a file is missing, truncated or altered.
    """
    description = _read_trainer(path / _TRAINER)
    for name, expected in description["files"].items():
        _check_file(path / name, Fingerprint(**expected))
    return _checkpoint(path, description)


def _digest(description: Mapping[str, Any]) -> str:
    """Of a manifest, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def describe(path: Path) -> Checkpoint:
    """The same without looking at the files.

    Raises:
        DataError: it has no description.
    """
    return _checkpoint(path, _read_trainer(path / _TRAINER))


def check_at(run: Path, step: int) -> Checkpoint:
    """The checkpoint after ``step`` among those in the directory ``run``.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = run / f"step-{step:06d}"
    if not path.is_dir():
        there = ", ".join(str(_step_of(p)) for p in reversed(CheckpointStore(run, 1).paths()))
        raise DataError(
            f"no checkpoint after step {step}",
            where=str(run),
            remedy=f"choose one of: {there}" if there else "let the run save one",
        )
    return check(path)


def _checkpoint(path: Path, description: dict[str, Any]) -> Checkpoint:
    fields = {name: description[name] for name in Progress.__dataclass_fields__}
    return Checkpoint(path=path, progress=Progress(**fields))


def storage_error(error: OSError, step: int) -> StorageError:
    """What a refusing disk means to the save after ``step``."""
    return StorageError.from_os_error(error, f"saving step-{step:06d}")


def _remove(path: Path) -> None:
    """As a whole: half a checkpoint must not bear its name."""
    aside = path.with_name(f"{path.name}.old{_UNFINISHED}")
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _step_of(path: Path) -> int:
    match = _STEP.match(path.name)
    assert match is not None
    return int(match[1])


def _check_file(path: Path, expected: Fingerprint) -> None:
    try:
        found = fingerprint(path)
    except FileNotFoundError:
        raise DataError("the checkpoint lacks a file", where=str(path)) from None
    except OSError as error:
        raise DataError(f"unreadable: {error.strerror}", where=str(path)) from None
    if found.bytes != expected.bytes:
        raise DataError(
            f"the file has {found.bytes} bytes instead of {expected.bytes}", where=str(path)
        )
    if found.sha256 != expected.sha256:
        raise DataError("the file's content was altered (checksum)", where=str(path))


def _read_trainer(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = description["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"no usable description ({error})", where=str(path)) from None
    if version != _FORMAT:
        raise DataError("written by another version of opsuite", where=str(path))
    digest = description.pop("digest", None)  # manifests had none before 2026-11-30
    if digest is not None and digest != _digest(description):
        raise DataError("the manifest was altered (checksum)", where=str(path))
    if problem := _problem(description, path.parent.name):
        raise DataError(f"no usable description ({problem})", where=str(path))
    _check_names(description["files"], path)
    return dict(description)


def _problem(description: dict[str, Any], name: str) -> str:
    """What is wrong with a manifest in a directory of this name, or ""."""
    kinds = {"step": int, "samples": int, "corpus": str, "files": dict}
    for key, kind in kinds.items():
        if type(description.get(key)) is not kind:
            return f"{key} is {description.get(key)!r}"
    match = _STEP.match(name)
    if description["samples"] < 0 or (match and int(match[1]) != description["step"]):
        return f"step {description['step']} and {description['samples']} samples in {name}"
    if "/" in description["corpus"] or description["corpus"] in (".", ".."):
        return f"corpus is {description['corpus']!r}"
    for file, facts in description["files"].items():
        whole = isinstance(facts, dict) and facts.keys() == {"bytes", "sha256"}
        if not whole or type(facts["bytes"]) is not int or not isinstance(facts["sha256"], str):
            return f"{file} is {facts!r}"
    return "" if description["files"] else "it names no files"


def _check_names(files: dict[str, Any], path: Path) -> None:
    """A manifest may come from elsewhere: it names files within the checkpoint only."""
    for name in files:
        if name.startswith("/") or ".." in name.split("/"):
            raise DataError(f"the manifest names a file outside: {name!r}", where=str(path))
