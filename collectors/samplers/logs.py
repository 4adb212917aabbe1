"""The logs of a run, followed as they grow, for what means trouble."""

from __future__ import annotations

import os
import re
import stat
import time
from typing import TYPE_CHECKING, Any

from collectors.samplers.log_events import LogEvents
from collectors.samplers.log_lines import LineSplitter
from collectors.samplers.sampler import Absent, Happening

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from collectors.samplers.log_events import LogEvent
    from collectors.samplers.sampler import Reading

MOST_BYTES = 4 << 20
"""What one reading takes of a log."""
MOST_BEHIND = 64 << 20
"""A log that is further ahead is read from so far before its end."""
_CHUNK = 1 << 18
_RANK = re.compile(r"rank(\d{1,7})\.log")
_MOST_LOGS = 4096
_OURS = {"watchdog.log"}  # which repeats what others said


class LogSampler:
    """Events ``log.<rule>`` of all ``*.log`` in a directory, from their beginning.

    A log that is replaced is read to its end and then anew; one that is cut is read anew. What is
    passed over, because too much came, is told (``log.skipped``), and what cannot be read as well
    (``log.unreadable``), once.
    """

    name = "logs"
    period_s = 1.0

    def __init__(self, logs: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs = logs
        self._clock = clock
        self._followed: dict[str, _Log] = {}
        self._unreadable: dict[str, str] = {}

    def read(self) -> Sequence[Reading | Happening]:
        """What the logs told since the last reading.

        Raises:
            Absent: there is no such directory, or it may not be read.
        """
        try:
            names = {path.name for path in self._logs.iterdir() if path.suffix == ".log"} - _OURS
        except OSError as error:
            reason = error.strerror or str(error)
            raise Absent(f"the logs in {self._logs} cannot be read: {reason}") from error
        found: list[Happening] = []
        for name in sorted(names)[:_MOST_LOGS]:
            found += self._read(name)
        return found

    def finish(self) -> Sequence[Happening]:
        """Read what is left, and tell all counts: nothing more will come."""
        found: list[Happening] = []
        for name, log in sorted(self._followed.items()):
            try:
                found += log.read(self._clock(), MOST_BEHIND)
            except OSError as error:
                found += self._cannot_read(name, error)
            found += log.finish(self._clock())
        self.close()
        return found

    def close(self) -> None:
        """Let go of the files."""
        for log in self._followed.values():
            log.close()
        self._followed.clear()

    def _read(self, name: str) -> list[Happening]:
        try:
            log = self._followed.get(name)
            if log is None:
                log = self._followed[name] = _Log(self._logs / name)
            found = log.read(self._clock())
        except OSError as error:
            return self._cannot_read(name, error)
        self._unreadable.pop(name, None)
        return found

    def _cannot_read(self, name: str, error: OSError) -> list[Happening]:
        reason = error.strerror or str(error)
        if self._unreadable.get(name) == reason:
            return []
        self._unreadable[name] = reason
        line = f"{name} cannot be read: {reason}"
        return [_happening(name, {"rule": "unreadable", "severity": "warning", "line": line})]


class _Log:
    """One log, by the file that has its name now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._inode = (0, 0)
        self._position = 0
        self._lines = LineSplitter()
        self._events = LogEvents()

    def read(self, now_s: float, most: int = MOST_BYTES) -> list[Happening]:
        """What is new; OSError: it cannot be read now."""
        found: list[Happening] = []
        if self._file < 0:
            self._open()
        elif self._replaced():
            found += self._take(now_s, MOST_BEHIND)
            self._open()
        return found + self._take(now_s, most)

    def finish(self, now_s: float) -> list[Happening]:
        """The last counts."""
        events = self._events.feed(self._lines.rest(), now_s)
        return self._told([*events, *self._events.end(now_s)])

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _open(self) -> None:
        # Neither a link to elsewhere nor a pipe that nobody writes is a log.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.open(self._path, flags)
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            os.close(file)
            raise OSError(0, "not a plain file")
        self.close()
        self._file, self._position = file, 0
        self._inode = (found.st_dev, found.st_ino)
        self._lines = LineSplitter()

    def _replaced(self) -> bool:
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return False  # it was moved away, and nobody has begun another yet
        return (found.st_dev, found.st_ino) != self._inode

    def _take(self, now_s: float, most: int) -> list[Happening]:
        size = os.fstat(self._file).st_size
        found: list[Happening] = []
        if size < self._position:
            self._position, self._lines = 0, LineSplitter()
        if size - self._position > MOST_BEHIND:
            skipped = size - MOST_BEHIND - self._position
            self._position, self._lines = size - MOST_BEHIND, LineSplitter()
            found.append(self._skipped(skipped))
        events: list[LogEvent] = []
        left = most
        while left > 0:
            chunk = os.pread(self._file, min(_CHUNK, left), self._position)
            if not chunk:
                break
            self._position += len(chunk)
            left -= len(chunk)
            events += self._events.feed(self._lines.split(chunk), now_s)
        if left == most:
            events += self._events.idle(now_s)
        return found + self._told(events)

    def _skipped(self, count: int) -> Happening:
        line = f"{count} bytes of {self._path.name} were passed over: too much came at once"
        return _happening(
            self._path.name,
            {"rule": "skipped", "severity": "warning", "line": line, "bytes": count},
        )

    def _told(self, events: Sequence[LogEvent]) -> list[Happening]:
        return [_happening(self._path.name, _attributes(event)) for event in events]


def _attributes(event: LogEvent) -> dict[str, Any]:
    told = {"rule": event.rule, "severity": str(event.severity), "line": event.line}
    return told | {"count": event.count} | ({"text": event.text} if event.text else {})


def _happening(log: str, told: dict[str, Any]) -> Happening:
    rank = _RANK.fullmatch(log)
    who = {"rank": int(rank[1]) if rank else None, "log": log, "count": 1}
    return Happening(f"log.{told['rule']}", {**who, **told})
