"""Following the logs of ranks: whole lines, with bounded memory."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from opsuite.running.screen import Screen

MOST_BYTES = 1 << 20
"""What one reading takes of a log."""
_LONGEST = 1 << 16
_REDRAWN_S = 1.0
_LOOK_S = 0.1


class LineTail:
    """New lines of a growing file.

    A progress bar that draws itself again and again (lines that end in a carriage return) gives its
    latest state once a second. Lines of more than 64 KiB come in pieces.

    Attributes:
        behind: whether the last reading left something.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._begun = b""
        self._redrawn: bytes | None = None
        self._shown_s = 0.0
        self.behind = False

    def read(self, now_s: float) -> list[bytes]:
        """What has come, at most a mebibyte of it; OSError: the file cannot be read."""
        with self._path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size < self._position:
                self._position, self._begun = 0, b""  # somebody has emptied it
            file.seek(self._position)
            chunk = file.read(MOST_BYTES)
        self._position += len(chunk)
        self.behind = len(chunk) == MOST_BYTES
        shown = self._lines(chunk)
        if self._redrawn is not None and now_s - self._shown_s >= _REDRAWN_S:
            shown.append(self._redrawn)
            self._redrawn, self._shown_s = None, now_s
        return shown

    def rest(self) -> list[bytes]:
        """What has no line end, when nothing more will come."""
        rest = (self._redrawn, self._begun.rstrip(b"\r"))
        self._redrawn, self._begun = None, b""
        return [line for line in rest if line]

    def _lines(self, chunk: bytes) -> list[bytes]:
        *whole, self._begun = (self._begun + chunk).split(b"\n")
        shown: list[bytes] = []
        for line in whole:
            self._redrawn = None
            shown += _pieces(line.rstrip(b"\r").rpartition(b"\r")[2])
        if b"\r" in self._begun.rstrip(b"\r"):
            drawn, _, self._begun = self._begun.rpartition(b"\r")
            self._redrawn = drawn.rpartition(b"\r")[2] or None
        if len(self._begun) > _LONGEST:
            *pieces, self._begun = _pieces(self._begun)
            shown += pieces
        return shown


def _pieces(line: bytes) -> list[bytes]:
    return [line[at : at + _LONGEST] for at in range(0, len(line), _LONGEST)] or [line]


class RankLogs:
    """Shows the logs of all ranks in ``logs``, each line behind its rank, until it is closed."""

    def __init__(self, logs: Path, screen: Screen) -> None:
        self._logs = logs
        self._screen = screen
        self._tails: dict[Path, LineTail] = {}
        self._troubles: dict[Path, str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Begin to show."""
        self._thread.start()

    def close(self) -> dict[Path, str]:
        """Show what is left; the logs that could not be read to the end, and why."""
        self._ended.set()
        self._thread.join()
        return self._troubles

    def _follow(self) -> None:
        while not self._ended.wait(0 if self._look() else _LOOK_S):
            pass
        while self._look():
            pass
        for path, tail in self._tails.items():
            self._show(path, tail.rest())

    def _look(self) -> bool:
        """Show what is new; whether there is more already."""
        for path in self._logs.glob("rank*.log"):
            if path not in self._tails and path.stem[4:].isdigit():
                self._tails[path] = LineTail(path)
        for path, tail in self._tails.items():
            try:
                self._show(path, tail.read(time.monotonic()))
                self._troubles.pop(path, None)
            except OSError as error:
                tail.behind = False
                self._troubles[path] = error.strerror or str(error)
        return any(tail.behind for tail in self._tails.values())

    def _show(self, path: Path, lines: list[bytes]) -> None:
        if lines:
            self._screen.lines(f"[{path.stem}] ", lines)
