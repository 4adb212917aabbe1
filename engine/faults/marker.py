"""The mark that a fault leaves in the run's directory: it strikes once, whoever restarts.

A rank that was killed comes back and does the same step again. Only the mark tells it that the
fault has been; so it is on the disk before the fault strikes.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_DIRECTORY = "faults"


class Marker:
    """Of one fault.

    Args:
        directory: of the run's marks; made when the first is needed.
        name: tells the fault from the run's others.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._struck = directory / f"{name}.struck"
        self._ended = directory / f"{name}.ended"

    def claim(self) -> bool:
        """Leave the mark; False where it has been left before.

        Raises:
            OSError: the disk refused.
        """
        return _create(self._struck)

    def end(self) -> None:
        """Mark that a fault which lasted is over."""
        _create(self._ended)

    @property
    def has_ended(self) -> bool:
        """Whether it lasted to its end."""
        return self._ended.exists()


def markers_of(run: Path) -> Path:
    """Where a run's marks lie."""
    return run / _DIRECTORY


def forget_strikes(run: Path) -> None:
    """Faults that are asked for anew may strike, though a run had others before."""
    shutil.rmtree(markers_of(run), ignore_errors=True)


def _create(path: Path) -> bool:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    for each in (descriptor, os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)):
        os.fsync(each)
        os.close(each)
    return True
