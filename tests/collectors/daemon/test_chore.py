"""What fails is told once, tried again, and well again by itself."""

from __future__ import annotations

import errno
import logging
import threading
import time
from typing import TYPE_CHECKING

from collectors.daemon.chore import Chore, Warnings

if TYPE_CHECKING:
    import pytest


def test_a_failure_is_told_once_and_passes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="opsuite")
    warnings = Warnings()
    full, calls, done = True, 0, threading.Event()

    def act() -> float:
        nonlocal calls
        calls += 1
        if full:
            raise OSError(errno.ENOSPC, "No space left on device", "/disk")
        done.set()
        return 60.0

    chore = Chore("collecting", act, warnings)
    chore.start()
    while calls < 2:
        time.sleep(0.01)
    assert warnings.list() == [
        "collecting: no space left while collecting; /disk; free space, or set OPSUITE_HOME"
    ]
    assert not chore.ensure(since=time.monotonic(), timeout_s=5.0), "nobody waits for a failure"
    full = False
    assert done.wait(10)
    chore.stop()
    assert warnings.list() == []
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "no space left while collecting; /disk; free space, or set OPSUITE_HOME",
        "well again",
    ]


def test_whoever_needs_it_now_gets_a_call_that_began_later() -> None:
    begun: list[float] = []

    def act() -> float:
        begun.append(time.monotonic())
        time.sleep(0.01)
        return 60.0

    chore = Chore("collecting", act, Warnings())
    chore.start()
    for _ in range(5):
        asked = time.monotonic()
        assert chore.ensure(since=asked, timeout_s=5.0)
        assert begun[-1] >= asked
    calls = len(begun)
    assert chore.ensure(since=begun[-1] - 1.0, timeout_s=5.0)
    assert len(begun) == calls, "an old enough call is good enough"
    chore.stop()
    assert not chore.ensure(since=time.monotonic(), timeout_s=5.0)
