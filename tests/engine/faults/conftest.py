"""Ranks that faults strike: here, and in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from collectors.recorder import NullRecorder
from engine.faults.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RANK = """
import sys, time
from pathlib import Path
from collectors.recorder import NullRecorder
from engine.faults.place import Place
from engine.faults.registry import inject_all

class Printed(NullRecorder):
    def event(self, name, **fields):
        print(name, flush=True)

fault, markers, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
place = Place(
    rank=0, world_size=1, cores=(), unpinned="", recorder=Printed(), markers=markers
)
hooks = inject_all([fault], place)
for step in range(1, 5):
    for hook in hooks:
        hook.on_step_begin(step)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    for group in Path("/proc/self/cgroup").read_text().split():
        if "opsuite-fault" in group:
            print("in a group", flush=True)
    for hook in hooks:
        hook.on_step_end(step)
    print("step", step, flush=True)
for hook in hooks:
    hook.close()
"""


class Events(NullRecorder):
    """Keeps the events."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.attributes: list[dict[str, Any]] = []

    def event(self, name: str, **fields: Any) -> None:
        self.names.append(name)
        self.attributes.append(fields["attributes"])


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def place(tmp_path: Path, events: Events) -> Place:
    """Rank 0 of 2; see dataclasses.replace."""
    return Place(
        rank=0, world_size=2, cores=(), unpinned="", recorder=events, markers=tmp_path / "faults"
    )


@pytest.fixture
def start_rank(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Begins a process of four steps; those of a test are one run, and its restarts."""
    started: list[subprocess.Popen[str]] = []

    def start(fault: str, *, step_s: float = 0.0) -> subprocess.Popen[str]:
        rank = subprocess.Popen(
            [sys.executable, "-c", RANK, fault, str(tmp_path / "faults"), str(step_s)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(rank)
        return rank

    yield start
    for rank in started:
        rank.kill()
        rank.communicate()


@pytest.fixture
def wait_for() -> Callable[..., bool]:
    def wait(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    return wait


@pytest.fixture
def cpu_seconds() -> Callable[[int], float]:
    def used(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    return used
