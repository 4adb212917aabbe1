"""The hog takes the rank's core while it should, and never outlives the rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from collectors.recorder import NullRecorder
from engine.faults.slow_rank import SlowRank

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="processes choose their cores on Linux only"
)

FAULT = SlowRank(rank=1, first_step=3, last_step=4)
HOLD = """
import sys, time
from collectors.recorder import NullRecorder
from engine.faults.slow_rank import SlowRank
fault = SlowRank(rank=0, first_step=1, last_step=9)
injector = fault.inject(rank=0, cores=[int(sys.argv[1])], unpinned="", recorder=NullRecorder())
injector.on_step_begin(1)
print("begun", flush=True)
time.sleep(60)
"""


class Events(NullRecorder):
    """Keeps the events."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.attributes: list[dict[str, Any]] = []

    def event(self, name: str, **fields: Any) -> None:
        self.names.append(name)
        self.attributes.append(fields["attributes"])


def hogs_of(parent: int) -> list[int]:
    """Processes that ``parent`` has started."""
    tasks = Path(f"/proc/{parent}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(condition: Any, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_it_is_there_during_its_steps_on_its_core() -> None:
    core = min(os.sched_getaffinity(0))
    events = Events()
    injector = FAULT.inject(rank=1, cores=[core], unpinned="", recorder=events)
    assert injector is not None
    before = set(hogs_of(os.getpid()))
    seen = []
    for step in (1, 2, 3, 4, 5):
        injector.on_step_begin(step)
        hogs = set(hogs_of(os.getpid())) - before
        seen.append(len(hogs))
        if step == 3:
            (hog,) = hogs
            assert wait_for(lambda hog=hog: cpu_seconds(hog) > 0.1)
            assert os.sched_getaffinity(hog) == {core}
        injector.on_step_end(step)
    injector.close()
    assert seen == [0, 0, 1, 1, 0]
    assert events.names == ["fault.begin", "fault.end"]
    assert events.attributes[0]["steps"] == "3-4"


def test_it_dies_with_a_rank_that_is_killed() -> None:
    core = min(os.sched_getaffinity(0))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(core)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as rank:
        assert rank.stdout is not None
        assert rank.stdout.readline() == b"begun\n"
        (hog,) = hogs_of(rank.pid)
        assert wait_for(lambda: cpu_seconds(hog) > 0.05)
        rank.send_signal(signal.SIGKILL)
    assert wait_for(lambda: not Path(f"/proc/{hog}").exists())


def test_unpinned_it_is_skipped_and_that_is_recorded() -> None:
    events = Events()
    reason = "2 rank(s) need 2 cores"
    assert FAULT.inject(rank=1, cores=[], unpinned=reason, recorder=events) is None
    assert events.names == ["fault.skipped"]
    assert reason in events.attributes[0]["reason"]
    assert FAULT.inject(rank=0, cores=[], unpinned=reason, recorder=events) is None
    assert len(events.names) == 1
