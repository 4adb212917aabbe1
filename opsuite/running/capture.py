"""What the command itself writes: shown as it comes, and kept in ``launcher.log``."""

from __future__ import annotations

import fcntl
import os
import select
import termios
import threading
import tty
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsuite.running.launcher_log import LauncherLog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opsuite.running.screen import Screen

_CHUNK = 65_536
_QUIET_S = 0.2
_LAST_S = 2.0


@dataclass(frozen=True, kw_only=True)
class _Channel:
    """A pipe, or a terminal where the user has one: ``near`` is ours, ``far`` the command's."""

    near: int
    far: int
    terminal: bool
    error: bool


class Capture:
    """The stdout and stderr of a command. Close it when the command has ended.

    Raises:
        StorageError: the log cannot be written.
    """

    def __init__(self, logs: Path, screen: Screen) -> None:
        self._screen = screen
        self._log = LauncherLog(logs)
        self._out, self._error = _channels(screen.terminals)
        self._ended = threading.Event()
        self._pumps = [
            threading.Thread(target=self._pump, args=(channel,), daemon=True)
            for channel in dict.fromkeys((self._out, self._error))
        ]
        self.resize()

    @property
    def streams(self) -> tuple[int, int]:
        """The descriptors for the command's stdout and stderr."""
        return self._out.far, self._error.far

    def start(self) -> None:
        """Begin to read; the command has its descriptors by now."""
        for descriptor in set(self.streams):
            os.close(descriptor)
        for pump in self._pumps:
            pump.start()

    def resize(self) -> None:
        """Give the command's terminals the size of ours."""
        for channel, ours in ((self._out, 1), (self._error, 2)):
            if channel.terminal:
                size = fcntl.ioctl(ours, termios.TIOCGWINSZ, bytes(8))
                fcntl.ioctl(channel.near, termios.TIOCSWINSZ, size)

    def close(self) -> list[str]:
        """Read what is left; what still writes afterwards is not waited for.

        Gives what there is to tell of it.
        """
        self._ended.set()
        for pump in self._pumps:
            if pump.is_alive():
                pump.join(_LAST_S)
        self._log.close()
        return [f"note: {self._log.bound}"] if self._log.bounded else []

    def _pump(self, channel: _Channel) -> None:
        begun = b""
        for chunk in self._chunks(channel):
            shown = self._screen.pass_on(chunk, error=channel.error)
            whole, end, begun = (begun + chunk).rpartition(b"\n")
            if len(begun) > _CHUNK:
                whole, end, begun = whole + end, begun, b""
            self._log.keep(whole + end)
            if not shown:
                begun += _hang_up(channel.near)
                break
        self._log.keep(begun)

    def _chunks(self, channel: _Channel) -> Iterator[bytes]:
        while True:
            ready, _, _ = select.select([channel.near], [], [], _QUIET_S)
            if not ready:
                if self._ended.is_set():
                    return
                continue
            try:
                chunk = os.read(channel.near, _CHUNK)
            except OSError:  # the last writer has closed a terminal
                chunk = b""
            if not chunk:
                return
            yield chunk


def _hang_up(pipe: int) -> bytes:
    """Let the command, too, know that its reader has gone away; gives what is in the pipe still."""
    ready, _, _ = select.select([pipe], [], [], 0)
    left = os.read(pipe, _CHUNK) if ready else b""
    os.close(pipe)
    return left


def _channels(terminals: tuple[bool, bool]) -> tuple[_Channel, _Channel]:
    """For stdout and stderr; where both are terminals, one for both, so that their order stays."""
    out = _channel(terminal=terminals[0], error=False)
    return out, out if all(terminals) else _channel(terminal=terminals[1], error=True)


def _channel(*, terminal: bool, error: bool) -> _Channel:
    if not terminal:
        near, far = os.pipe()
        return _Channel(near=near, far=far, terminal=False, error=error)
    near, far = os.openpty()
    tty.setraw(far)  # what the command writes is ours to show, and reaches the true terminal as is
    return _Channel(near=near, far=far, terminal=True, error=error)
