"""The hot tier: what was read of the spools and is not sealed yet, in mapped Arrow files.

It can be made again from the spools at any time, so nothing here is ever synced.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from collectors.clock import process_lives

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class HotFile:
    """An Arrow IPC file of one table."""

    table: str
    path: Path
    rows: int

    def read(self) -> pa.Table:
        """Its rows, mapped and not copied."""
        with pa.memory_map(str(self.path)) as source:
            return pa.ipc.open_file(source).read_all()


class HotTier:
    """The hot files of one process: ``hot/<pid>-<token>/<number>-<table>.arrow``."""

    def __init__(self, home: Path) -> None:
        self._parent = home / "hot"
        self._directory = self._parent / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._written = 0

    def write(self, name: str, table: pa.Table) -> HotFile:
        """Write a table's new rows; OSError: nothing is left of the file."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._written += 1
        path = self._directory / f"{self._written:06d}-{name}.arrow"
        try:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table.combine_chunks())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return HotFile(table=name, path=path, rows=table.num_rows)

    def clear_abandoned(self) -> None:
        """Remove what processes that were killed have left."""
        for directory in self._parent.glob("*-*"):
            pid = directory.name.partition("-")[0]
            since_ns = int(directory.stat().st_mtime_ns)
            if pid.isdecimal() and not process_lives(int(pid), since_ns=since_ns):
                shutil.rmtree(directory, ignore_errors=True)

    def close(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self._directory, ignore_errors=True)
