"""``launcher.log``: what the command itself writes, with a bound on the disk that it takes."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from collectors.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "launcher.log"
OLDER = "launcher.log.1"
MOST_BYTES = 64 << 20
"""Of each of the two files. The last words count most: the oldest ones go."""


class LauncherLog:
    """The log, which begins anew where it is full: the one before is kept, older ones are not.

    Safe under threads. Another host's part of the run may write the same log.

    Raises:
        StorageError: it cannot be made.
    """

    def __init__(self, logs: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path = logs / NAME
        self._older = logs / OLDER
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self.bounded = False
        """Whether it has begun anew."""
        try:
            self._file = self._open()
        except OSError as error:
            raise StorageError.from_os_error(error, f"making {NAME}") from error

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self._path, flags, 0o600)

    def keep(self, lines: bytes) -> None:
        """Add whole lines; a full disk costs the log only: the user still sees them."""
        with self._lock:
            try:
                if os.fstat(self._file).st_size >= self._most_bytes:
                    self._begin_anew()
                os.write(self._file, lines)
            except OSError:
                return

    def _begin_anew(self) -> None:
        if os.path.samestat(self._path.stat(), os.fstat(self._file)):  # else another host did so
            self._path.replace(self._older)
        full, self._file = self._file, self._open()
        os.close(full)
        if not self.bounded:
            self.bounded = True
            os.write(self._file, f"opsuite: {self.bound}\n".encode())

    @property
    def bound(self) -> str:
        """In words."""
        size = self._most_bytes / (1 << 20)
        return f"of the command's own output the last {size:g} to {2 * size:g} MiB are kept"

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            os.close(self._file)
            self._file = -1


def read_tail(logs: Path, most_bytes: int) -> bytes:
    """The end of the log, whether it has just begun anew or not; b"" where there is none."""
    tail = b""
    for path in (logs / NAME, logs / OLDER):
        try:
            with path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - (most_bytes - len(tail))))
                tail = file.read(most_bytes - len(tail)) + tail
        except OSError:
            break  # none, or nothing was captured
    return tail
