"""Which model directory a user means: a directory, or what a run has learned so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from collectors.errors import Unreachable, UsageError
from collectors.run import RunDirectory
from opsuite.model_export import newest
from opsuite.output import narrate


@dataclass(frozen=True, kw_only=True)
class ModelReference:
    """A model directory and what to call the model in it."""

    directory: Path
    name: str


def resolve_model(home: Path, reference: str) -> ModelReference:
    """Find the model that ``reference`` names: a directory first, else a run.

    Args:
        reference: a model directory, a run's directory, a run id, its beginning, or "last".

    Raises:
        UsageError: it names neither a model nor a run.
        DataError: the run has no checkpoint that is whole.
    """
    path = Path(reference).expanduser()
    if (path / "run.json").is_file():
        return _newest_model(RunDirectory.load(path.resolve()))
    if path.exists() or _is_a_path(reference):
        return ModelReference(directory=path, name=path.resolve().name)
    try:
        run = RunDirectory.open(home, reference, kind="training")
    except Unreachable as error:
        raise UsageError(
            f"{reference!r} is neither a directory nor a run",
            where=error.where,
            remedy=error.remedy,
        ) from None
    return _newest_model(run)


def _is_a_path(reference: str) -> bool:
    return reference.startswith((".", "~")) or "/" in reference


def _newest_model(run: RunDirectory) -> ModelReference:
    """Its newest whole checkpoint, exported unless it has been."""
    from engine.training.export import exported

    directory = exported(newest(run), run.path / "model", narrate)
    return ModelReference(directory=directory, name=run.manifest.name)
