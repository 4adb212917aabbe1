"""A job whose output is read as it comes, and of which nothing is left behind."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

_MARK = "BENCH_JOB"  # an environment variable
_LOOK_S = 0.05
_LEAVE_S = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of output, and when it came (monotonic seconds)."""

    at_s: float
    text: str


class Job:
    """A command in a directory; at the end of the ``with`` block all its processes are gone.

    Attributes:
        lines: what it has printed so far, stdout and stderr together.
        stayed: processes that did not leave by themselves when the job had ended.
    """

    def __init__(
        self, command: Sequence[str], directory: Path, environment: Mapping[str, str]
    ) -> None:
        self.lines: list[Line] = []
        self.stayed: list[str] = []
        self._command = list(command)
        self._directory = directory
        self._mark = secrets.token_hex(8)
        self._environment = {**os.environ, **environment, _MARK: self._mark}
        self._known: dict[int, psutil.Process] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self._environment,
            cwd=self._directory,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ended = self.exit_code is not None
        self.processes()
        if not ended:
            self._kill(lambda process: not _is_watchdog(process))
        self._await_the_rest(told=ended)
        self._process.wait()
        self._reader.join(_LEAVE_S)

    @property
    def exit_code(self) -> int | None:
        """None: it goes on."""
        return self._process.poll()

    @property
    def text(self) -> str:
        """All lines so far."""
        return "\n".join(line.text for line in list(self.lines))

    def wait_for(self, met: Callable[[], object], timeout_s: float) -> bool:
        """Until ``met()`` is true, the job ends or the time is up; returns whether it is met."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if met():
                return True
            if self.exit_code is not None:
                self._reader.join(1.0)
                return bool(met())
            time.sleep(_LOOK_S)
        return bool(met())

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code; None where it has not ended by then."""
        self.wait_for(lambda: self.exit_code is not None, timeout_s)
        if self.exit_code is not None:
            self._reader.join(1.0)
        return self.exit_code

    def processes(self) -> list[psutil.Process]:
        """Those that it has started, also where their parents have ended."""
        with suppress(psutil.Error):
            top = psutil.Process(self._process.pid)
            for process in [top, *top.children(recursive=True)]:
                self._known.setdefault(process.pid, process)
        for process in psutil.process_iter():
            if process.pid not in self._known and self._belongs(process):
                self._known[process.pid] = process
        return [process for process in self._known.values() if _lives(process)]

    def ranks(self) -> list[int]:
        """Process numbers of the ranks, in their order."""
        found = {}
        for process in self.processes():
            with suppress(psutil.Error, ValueError):
                rank = int(process.environ().get("RANK", ""))
                if not (process.parent() or process).environ().get("RANK"):
                    found[rank] = process.pid
        return [found[rank] for rank in sorted(found)]

    def _belongs(self, process: psutil.Process) -> bool:
        """By a mark in its environment, which is this job's alone."""
        try:
            return process.environ().get(_MARK) == self._mark
        except psutil.Error:  # somebody else's, or gone
            return False

    def _kill(self, chosen: Callable[[psutil.Process], bool]) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                if chosen(process):
                    process.send_signal(signal.SIGKILL)

    def _await_the_rest(self, *, told: bool) -> None:
        """Watchdogs leave when their ranks are gone."""
        deadline = time.monotonic() + _LEAVE_S
        while (left := self.processes()) and time.monotonic() < deadline:
            self._process.poll()
            time.sleep(_LOOK_S)
        for process in left:
            with suppress(psutil.Error):
                command = " ".join(process.cmdline())
                if told or _is_watchdog(process):
                    self.stayed.append(command[-200:])
                process.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for text in output:
                self.lines.append(Line(time.monotonic(), text.rstrip("\n")))


def _is_watchdog(process: psutil.Process) -> bool:
    return "opsuite.watchdog" in process.cmdline()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
