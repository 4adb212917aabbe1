"""The hog takes the rank's core while it should, and never outlives the rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine.faults.keys import Steps
from engine.faults.slow_rank import SlowRank

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.faults.place import Place

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="processes choose their cores on Linux only"
)

FAULT = SlowRank(rank=0, steps=Steps(3, 4))
HOLD = """
import sys, time
from pathlib import Path
from collectors.recorder import NullRecorder
from engine.faults.keys import Steps
from engine.faults.place import Place
from engine.faults.slow_rank import SlowRank
place = Place(
    rank=0, world_size=1, cores=[int(sys.argv[1])], unpinned="", recorder=NullRecorder(),
    markers=Path(sys.argv[2]),
)
injector = SlowRank(rank=0, steps=Steps(1, 9)).inject(place)
injector.on_step_begin(1)
print("begun", flush=True)
time.sleep(60)
"""


def hogs_of(parent: int) -> list[int]:
    """Processes that ``parent`` has started."""
    tasks = Path(f"/proc/{parent}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def test_it_is_there_during_its_steps_on_its_core(
    place: Place,
    events: Any,
    wait_for: Callable[..., bool],
    cpu_seconds: Callable[[int], float],
) -> None:
    core = min(os.sched_getaffinity(0))
    injector = FAULT.inject(replace(place, cores=[core]))
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
    assert events.attributes[0]["cores"] == [core]


def test_a_rank_that_comes_back_has_it_again_until_it_has_lasted(place: Place, events: Any) -> None:
    core = min(os.sched_getaffinity(0))
    before = set(hogs_of(os.getpid()))
    for steps, expected in (((3,), True), ((2, 3, 4), True), ((3, 4), False)):
        injector = FAULT.inject(replace(place, cores=[core]))
        assert injector is not None
        for step in steps:
            injector.on_step_begin(step)
            assert bool(set(hogs_of(os.getpid())) - before) == (expected and step >= 3)
            if len(steps) > 1:  # else the rank ends within it
                injector.on_step_end(step)
        injector.close()
        assert set(hogs_of(os.getpid())) == before
    assert events.names == ["fault.begin", "fault.begin", "fault.end"]


def test_it_dies_with_a_rank_that_is_killed(
    tmp_path: Path, wait_for: Callable[..., bool], cpu_seconds: Callable[[int], float]
) -> None:
    core = min(os.sched_getaffinity(0))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(core), str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as rank:
        assert rank.stdout is not None
        assert rank.stdout.readline() == b"begun\n"
        (hog,) = hogs_of(rank.pid)
        assert wait_for(lambda: cpu_seconds(hog) > 0.05)
        rank.send_signal(signal.SIGKILL)
    assert wait_for(lambda: not Path(f"/proc/{hog}").exists())


def test_unpinned_it_is_skipped_and_that_is_recorded(place: Place, events: Any) -> None:
    unpinned = replace(place, unpinned="2 rank(s) need 2 cores")
    assert FAULT.inject(unpinned) is None
    assert events.names == ["fault.skipped"]
    assert unpinned.unpinned in events.attributes[0]["reason"]
    assert FAULT.inject(replace(unpinned, rank=1)) is None
    assert len(events.names) == 1
