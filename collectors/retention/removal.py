"""Removing a run so that a crash leaves nothing half, beside a collector or without one.

The run's directory is renamed to ``runs/.removed-<run id>`` first: with that the run is gone, and
whoever collects leaves it out. Then its seals, its Parquet files and the renamed directory go. What
a crash leaves is cleared at the next :func:`sweep`, and so is what a collector sealed of the run at
that very moment.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from collectors.errors import DataError, StorageError, Unreachable, UsageError
from collectors.retention.usage import run_parquet
from collectors.run import RunDirectory

if TYPE_CHECKING:
    from pathlib import Path

_PREFIX = ".removed-"
_LATE_S = 120.0  # within this a collector has seen that the run is gone


def remove_run(home: Path, run_id: str, *, force: bool = False) -> None:
    """Remove a run with all that was recorded of it. A collector may be at work.

    Args:
        force: also one that says that it runs.

    Raises:
        UsageError: it is running.
        Unreachable: there is no such run.
        StorageError: something of it cannot be removed; :func:`sweep` tries again.
    """
    path = home / "runs" / run_id
    if not force:
        _refuse_running(path)
    grave = home / "runs" / f"{_PREFIX}{run_id}"
    try:
        _clear(home, grave)  # of a run of that id that was removed before
        with suppress(FileNotFoundError):
            grave.rmdir()
        path.rename(grave)
    except FileNotFoundError as error:
        raise Unreachable(f"there is no run {run_id!r}", where=str(home / "runs")) from error
    except OSError as error:
        raise StorageError.from_os_error(error, f"removing the run {run_id}") from error
    sweep(home, only=run_id)


def sweep(home: Path, *, only: str | None = None) -> None:
    """Clear what is left of removed runs.

    Raises:
        StorageError: something of them cannot be removed.
    """
    for grave in (home / "runs").glob(f"{_PREFIX}{only or '*'}"):
        run_id = grave.name.removeprefix(_PREFIX)
        try:
            if not (home / "runs" / run_id).exists():
                for directory in run_parquet(home, run_id):
                    _remove(directory)
            _clear(home, grave)
            if only is None and time.time() - grave.stat().st_mtime > _LATE_S:
                grave.rmdir()
        except FileNotFoundError:
            continue  # another sweep was faster
        except OSError as error:
            raise StorageError.from_os_error(error, f"removing the run {run_id}") from error


def clear_remains(home: Path, run_id: str) -> None:
    """Clear all that is left of a run that was removed: one of its id is about to be imported.

    Raises:
        StorageError: what is left of it cannot be removed.
    """
    grave = home / "runs" / f"{_PREFIX}{run_id}"
    try:
        for directory in run_parquet(home, run_id):
            _remove(directory)
        _remove(grave)
    except OSError as error:
        raise StorageError.from_os_error(error, f"clearing what is left of {run_id}") from error


def _clear(home: Path, grave: Path) -> None:
    """Empty a renamed directory; itself stays, to say that late seals of it are to go too."""
    with suppress(FileNotFoundError):
        for entry in grave.iterdir():
            _remove(entry)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _refuse_running(path: Path) -> None:
    try:
        run = RunDirectory.load(path)
    except DataError:
        return  # a run that nobody can read does not run either
    if run.manifest.status == "running":
        raise UsageError(
            f"the run {run.run_id} is running",
            where=f"process {run.manifest.pid} on {run.manifest.host}",
            remedy="stop it first",
        )
