"""The model of one step of a training run, as a Hugging Face directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.errors import DataError, UsageError
from opsuite.output import narrate

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.run import RunDirectory
    from engine.training.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A model directory, and the step whose weights it has."""

    directory: Path
    step: int


def export_step(run: RunDirectory, *, step: int | None, output: Path | None) -> ExportedModel:
    """Write the model after ``step`` (None: of the newest whole checkpoint) to ``output``.

    Raises:
        UsageError: something is at ``output`` already.
        DataError: there is no such checkpoint, or it is damaged.
        StorageError: the disk refused.
    """
    from engine.training.checkpoint import check_at
    from engine.training.export import export_model

    if output is not None and output.exists():
        raise UsageError(
            "the directory to make exists already", where=str(output), remedy="name another"
        )
    found = newest(run) if step is None else check_at(run.checkpoints, step)
    directory = output or run.path / "exports" / found.path.name
    return ExportedModel(directory=export_model(found, directory.absolute()), step=found.step)


def newest(run: RunDirectory) -> Checkpoint:
    """The newest whole checkpoint of a run; damaged newer ones are told and passed over."""
    from engine.training.checkpoint import CheckpointStore

    for found in CheckpointStore(run.checkpoints, keep=1).check_all():
        if not isinstance(found, DataError):
            return found
        narrate(f"skipped a damaged checkpoint: {found}")
    raise DataError(
        "the run has no checkpoint yet",
        where=str(run.checkpoints),
        remedy="let it run until its first checkpoint, or name another run",
    )
