"""What a run shows: output of many processes on two streams, never mixed within a line."""

from __future__ import annotations

import os
import re
import select
import threading
from dataclasses import dataclass, field

_RESET = b"\x1b[0m"
_COLOUR = re.compile(rb"(\x1b\[[0-9;]{0,32}m)")
_POWERLESS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")


@dataclass
class _Stream:
    """Where it goes, whether its last line has no end yet, and whether its reader has gone."""

    descriptor: int
    terminal: bool
    open_line: bool = False
    gone: bool = field(default=False)


class Screen:
    """Our stdout and stderr; safe under threads. What a full disk refuses is left out."""

    def __init__(self, out: int = 1, error: int = 2) -> None:
        self._lock = threading.Lock()
        self._out = _Stream(out, os.isatty(out))
        self._error = _Stream(error, os.isatty(error))

    @property
    def terminals(self) -> tuple[bool, bool]:
        """Which of the two streams is a terminal."""
        return self._out.terminal, self._error.terminal

    def pass_on(self, chunk: bytes, *, error: bool) -> bool:
        """Write as it is what the command itself has written; False: its reader has gone away."""
        stream = self._error if error else self._out
        with self._lock:
            self._write(stream, chunk)
            return not stream.gone

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
            except BrokenPipeError:
                stream.gone = True
            except OSError:  # a full disk, or a terminal that was closed: the logs have it all
                break
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


def harmless_text(text: str) -> str:
    """The same of a text of many lines."""
    lines = [harmless(line.encode("utf-8", "replace")) for line in text.split("\n")]
    return b"\n".join(lines).decode("utf-8")


def _escape(found: re.Match[bytes]) -> bytes:
    return b"\\x%02x" % found[0][-1]  # U+0080 to U+009F are their last byte
