"""A daemon of the benchmark's own: a real ``opsuite collect`` on a home that is thrown away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from collectors.daemon.client import DaemonClient
from collectors.errors import OpsuiteError, TimedOut, Unreachable
from opsuite.bench.home import bench_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from collectors.query.source import Source

_START_S = 30.0
_STOP_S = 60.0
_PAUSE_S = 0.05


@contextmanager
def temporary_home(name: str) -> Iterator[Path]:
    """A home inside of the benchmarks' own, removed afterwards."""
    base = bench_home()
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@dataclass(kw_only=True)
class Collecting:
    """A daemon as a child of this process; use it as a context manager.

    Attributes:
        home: what it collects.
        module: what runs it; a stand-in for ``opsuite collect`` takes the same arguments.
        environment: more variables for it.
    """

    home: Path
    module: str = "opsuite.cli.main"
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self.stop()

    @property
    def process(self) -> psutil.Process:
        """The running daemon."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def start(self) -> None:
        """Start it; returns when it answers."""
        command = [sys.executable, "-P", "-m", self.module, "collect", "--foreground"]
        with (self.home / "collect-stderr.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, **self.environment, "OPSUITE_HOME": str(self.home)},
            )
        wait_until(self._answers, timeout_s=_START_S, what="the daemon to answer")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the daemon ended with {self._process.returncode}"
        try:
            with self.connect():
                return True
        except OpsuiteError:
            return False

    def connect(self) -> DaemonClient:
        """A client of it; Unreachable where it does not listen (yet)."""
        client = DaemonClient.find(self.home)
        if client is None or self._process is None or client.daemon["pid"] != self._process.pid:
            raise Unreachable("the benchmark's daemon does not listen", where=str(self.home))
        return client

    def kill(self) -> None:
        """SIGKILL, wherever it is; its readers end by themselves."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Ask it to end in order, and wait for that."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimedOut("the daemon did not stop", where=str(self.home)) from None
        self._process = None


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process, without its children."""
    times = process.cpu_times()
    return float(times.user + times.system)


def children_cpu_s(process: psutil.Process) -> float:
    """CPU seconds of the children that live now."""
    total = 0.0
    for child in process.children(recursive=True):
        with suppress(psutil.Error):
            total += cpu_s(child)
    return total


def wait_until(met: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Ask again and again; TimedOut where it does not happen."""
    deadline = time.monotonic() + timeout_s
    while not met():
        if time.monotonic() > deadline:
            raise TimedOut(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(_PAUSE_S)


def wait_for_rows(count: Callable[[Source], int], source: Source, rows: int) -> None:
    """Until the store has so many rows, or has not grown for a while."""
    deadline, last = time.monotonic() + _STOP_S, -1
    while (now := count(source)) < rows and time.monotonic() < deadline:
        if now > last:
            last, deadline = now, time.monotonic() + _STOP_S / 4
        time.sleep(_PAUSE_S)
