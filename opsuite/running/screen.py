"""What a run shows: output of many processes on two streams, never mixed within a line."""

from __future__ import annotations

import os
import re
import select
import threading
from dataclasses import dataclass, field

_RESET = b"\x1b[0m"
_COLOUR = re.compile(rb"(\x1b\[[0-9;]{0,32}m)")
_POWERLESS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass
class _Stream:
    """Where it goes, and whether its last line has no end yet."""

    descriptor: int
    terminal: bool
    open_line: bool = False
    gone: bool = field(default=False)


class Screen:
    """Our stdout and stderr; safe under threads. A reader that has gone away is not missed."""

    def __init__(self, out: int = 1, error: int = 2) -> None:
        self._lock = threading.Lock()
        self._out = _Stream(out, os.isatty(out))
        self._error = _Stream(error, os.isatty(error))

    @property
    def terminals(self) -> tuple[bool, bool]:
        """Which of the two streams is a terminal."""
        return self._out.terminal, self._error.terminal

    def pass_on(self, chunk: bytes, *, error: bool) -> None:
        """Write as it is what the command itself has written."""
        with self._lock:
            self._write(self._error if error else self._out, chunk)

    def lines(self, prefix: str, lines: list[bytes]) -> None:
        """Write whole lines, each behind ``prefix``; colours stay, other escapes do nothing."""
        head = prefix.encode()
        shown = lines if not self._out.terminal else [harmless(line) for line in lines]
        with self._lock:
            if self._is_open():
                self._write(self._out, b"\n")
            self._write(self._out, b"".join(head + line + b"\n" for line in shown))

    def _is_open(self) -> bool:
        both = self._out.terminal and self._error.terminal
        return self._out.open_line or (both and self._error.open_line)

    def _write(self, stream: _Stream, data: bytes) -> None:
        left = memoryview(data)
        while left and not stream.gone:
            try:
                left = left[os.write(stream.descriptor, left) :]
            except BlockingIOError:  # somebody shares the terminal, and made it so
                select.select([], [stream.descriptor], [])
            except OSError:  # its reader has gone away, or its disk is full: the logs have it all
                stream.gone = True
        stream.open_line = not data.endswith((b"\n", b"\r"))
        if stream.terminal and not stream.open_line:
            self._out.open_line = self._error.open_line = False


def harmless(line: bytes) -> bytes:
    """A line without power over the terminal, but for its colours."""
    parts = _COLOUR.split(line)
    if len(parts) == 1:
        return _POWERLESS.sub(_escape, line)
    for index in range(0, len(parts), 2):
        parts[index] = _POWERLESS.sub(_escape, parts[index])
    return b"".join(parts) + _RESET


def _escape(found: re.Match[bytes]) -> bytes:
    return b"\\x%02x" % found[0][0]
