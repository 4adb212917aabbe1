"""Real daemons of real homes, which do not outlive their tests."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

from collectors.clock import process_lives
from collectors.daemon.client import DaemonClient
from collectors.daemon.lifecycle import ensure_daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    StartDaemon = Callable[..., int]


def wait_for(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    """Wait until something holds; an assertion where it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def _kill(pid: int) -> None:
    if lives(pid):
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not lives(pid))


def lives(pid: int) -> bool:
    """Whether a daemon is there."""
    return process_lives(pid, since_ns=time.time_ns())


@pytest.fixture
def eventually() -> Callable[..., None]:
    """:func:`wait_for`."""
    return wait_for


@pytest.fixture
def start_daemon(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartDaemon]:
    """Starts a daemon in ``home`` and gives its process id; killed after the test."""
    pids: list[int] = []
    with tempfile.TemporaryDirectory(prefix="opsuite-test-") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)

        def start(*arguments: str) -> int:
            pids.append(ensure_daemon(home, arguments=arguments).pid)
            return pids[-1]

        yield start
        for pid in pids:
            _kill(pid)


@pytest.fixture
def client(home: Path, start_daemon: StartDaemon) -> Iterator[DaemonClient]:
    """A client of a daemon in ``home``."""
    start_daemon()
    found = DaemonClient.find(home)
    assert found is not None
    with found:
        yield found
