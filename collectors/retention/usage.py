"""What runs take of the disk."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from collectors.store.seal import seals_directory
from collectors.store.tables import BULK

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK = 512  # what st_blocks counts in


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Bytes on the disk that one run takes, by what they are for.

    Attributes:
        spool: records that are not sealed, or were sealed just now.
        parquet: sealed rows, with their seals.
        other: manifest, configuration and the like.
    """

    spool: int = 0
    parquet: int = 0
    logs: int = 0
    checkpoints: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.spool + self.parquet + self.logs + self.checkpoints + self.other


def measure_run(home: Path, run_id: str) -> Usage:
    """What a run takes now; files that come and go meanwhile do not matter."""
    directory = home / "runs" / run_id
    parts = {name: size_of(directory / name) for name in ("spool", "logs", "checkpoints")}
    parquet = sum(size_of(path) for path in run_parquet(home, run_id))
    return Usage(**parts, parquet=parquet, other=size_of(directory) - sum(parts.values()))


def run_parquet(home: Path, run_id: str) -> list[Path]:
    """The directories of a run's seals and of its sealed files, the seals first."""
    parquet = home / "parquet"
    tables = [parquet / table / f"run={quote(run_id, safe='')}" for table in BULK]
    return [seals_directory(parquet, run_id), *tables]


def size_of(path: Path) -> int:
    """Bytes on the disk of a file or of all files below a directory; links are not followed."""
    try:
        facts = path.lstat()
        if not stat.S_ISDIR(facts.st_mode):
            return facts.st_blocks * _BLOCK
        return _size_below(path)
    except OSError:
        return 0  # it went away meanwhile


def _size_below(directory: str | Path) -> int:
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    total += _size_below(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
            except OSError:
                continue  # it went away meanwhile
    return total
