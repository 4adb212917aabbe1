"""Faults that last over steps: a quota of the CPU, and a storm of collections."""

from __future__ import annotations

import gc
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from engine.faults.cgroup import why_no_cgroup
from engine.faults.gc_storm import GcStorm
from engine.faults.keys import Steps

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from engine.faults.place import Place

    StartRank = Callable[..., subprocess.Popen[str]]

NO_GROUP = why_no_cgroup("cpu")


def groups(pid: int) -> list[Path]:
    """That a process has made."""
    return list(Path("/sys/fs/cgroup/cpu").rglob(f"opsuite-fault-{pid}-*"))


def throttled(group: Path) -> int:
    """Periods in which the group had used its share."""
    fields = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(fields["nr_throttled"])


@pytest.mark.skipif(bool(NO_GROUP), reason=NO_GROUP)
def test_a_quota_is_there_in_its_steps_and_undone(start_rank: StartRank) -> None:
    fault = "cpu-quota:rank=0,steps=2-3,percent=50"
    rank = start_rank(fault)
    said, _ = rank.communicate(timeout=30)
    within = ["fault.begin", "in a group", "step 2", "in a group", "fault.end", "step 3"]
    assert said.splitlines() == ["step 1", *within, "step 4"]
    assert not groups(rank.pid)
    said, _ = start_rank(fault).communicate(timeout=30)
    assert said.splitlines() == [f"step {step}" for step in (1, 2, 3, 4)]


@pytest.mark.skipif(bool(NO_GROUP), reason=NO_GROUP)
def test_the_kernel_throttles_and_the_group_goes_with_a_rank_that_is_killed(
    start_rank: StartRank, wait_for: Callable[..., bool]
) -> None:
    rank = start_rank("cpu-quota:rank=0,steps=2-3,percent=1", step_s=0.3)
    assert rank.stdout is not None
    assert [rank.stdout.readline() for _ in range(2)] == ["step 1\n", "fault.begin\n"]
    [group] = groups(rank.pid)
    assert (group / "cpu.cfs_quota_us").read_text() == "1000\n"
    assert wait_for(lambda: throttled(group) > 0)
    rank.send_signal(signal.SIGKILL)
    rank.communicate(timeout=30)
    assert wait_for(lambda: not groups(rank.pid))


def test_a_storm_collects_in_its_steps_only(place: Place, events: Any) -> None:
    collections = 0

    def count(phase: str, _: object) -> None:
        nonlocal collections
        collections += phase == "start"

    model = torch.nn.Identity()
    place = replace(place, modules=(model,))
    injector = GcStorm(rank=0, steps=Steps(2, 3), ms=60).inject(place)
    assert injector is not None
    counts, took = [], []
    gc.collect()
    gc.disable()  # as the trainer has it
    gc.callbacks.append(count)
    try:
        for step in (1, 2, 3, 4):
            injector.on_step_begin(step)
            collections, began = 0, time.monotonic()
            model(0)
            took.append(time.monotonic() - began)
            counts.append(collections)
            model(0)  # of the next micro-batch
            assert collections == counts[-1]
            injector.on_step_end(step)
        assert not gc.isenabled()
    finally:
        gc.callbacks.remove(count)
        gc.enable()
    assert [count > 0 for count in counts] == [False, True, True, False]
    assert min(took[1:3]) > 0.06
    assert events.names == ["fault.begin", "fault.end"]
    again = GcStorm(rank=0, steps=Steps(2, 3), ms=60).inject(place)
    assert again is not None
    again.on_step_begin(2)
    assert len(events.names) == 2
