"""Who may open the store: one process that ingests, or any number that read."""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from collectors.errors import StorageError, TimedOut

if TYPE_CHECKING:
    from pathlib import Path

_PAUSE_S = 0.02


class StoreLock:
    """A lock file beside the store; it holds the process id of the last one that ingested.

    Raises:
        StorageError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError.from_os_error(error, "locking the store") from error

    def exclude(self, timeout_s: float) -> None:
        """Wait until nobody has the store open; TimedOut after ``timeout_s``."""
        self._take(fcntl.LOCK_EX, timeout_s)
        os.pwrite(self._descriptor, f"{os.getpid():<20}\n".encode(), 0)

    def share(self, timeout_s: float) -> None:
        """Let others read as well."""
        self._take(fcntl.LOCK_SH, timeout_s)

    def release(self) -> None:
        """Leave the store to others."""
        os.close(self._descriptor)

    def _take(self, how: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(self._descriptor, how | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise self._timed_out(timeout_s) from None
            time.sleep(_PAUSE_S)

    def _timed_out(self, timeout_s: float) -> TimedOut:
        holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
        return TimedOut(
            f"the store is in use since more than {timeout_s:g} s (last opened by process "
            f"{holder or 'unknown'})",
            where=str(self._path),
            remedy="try again when that process has ended",
        )
