"""Ranks that are ended, stopped or stuck: real processes, each struck once in its run."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.faults.cgroup import why_no_cgroup

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    StartRank = Callable[..., subprocess.Popen[str]]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what ranks do")

ALL_STEPS = ["step 1", "step 2", "step 3", "step 4"]
NO_MEMORY_GROUP = why_no_cgroup("memory")


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def groups(pid: int) -> list[Path]:
    """That a process has made."""
    return list(Path("/sys/fs/cgroup/memory").rglob(f"opsuite-fault-{pid}-*"))


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("sigkill", signal.SIGKILL),
        ("sigsegv", signal.SIGSEGV),
        pytest.param(
            "oom",
            signal.SIGKILL,
            marks=pytest.mark.skipif(bool(NO_MEMORY_GROUP), reason=NO_MEMORY_GROUP),
        ),
    ],
)
def test_it_ends_the_rank_in_its_step_and_not_again(
    name: str, ending: signal.Signals, start_rank: StartRank, wait_for: Callable[..., bool]
) -> None:
    fault = f"{name}:rank=0,step=3"
    rank = start_rank(fault)
    said, _ = rank.communicate(timeout=30)
    assert rank.returncode == -ending
    assert said.splitlines() == ["step 1", "step 2", "fault.begin"]
    again = start_rank(fault)
    said, _ = again.communicate(timeout=30)
    assert (again.returncode, said.splitlines()) == (0, ALL_STEPS)
    assert wait_for(lambda: not groups(rank.pid))


def test_a_delay_puts_it_into_the_step(start_rank: StartRank) -> None:
    rank = start_rank("sigkill:rank=0,step=2,delay_ms=150", step_s=0.4)
    assert rank.stdout is not None
    assert rank.stdout.readline() == "step 1\n"
    said, _ = rank.communicate(timeout=30)
    assert rank.returncode == -signal.SIGKILL
    assert said.splitlines() == ["fault.begin"]


def test_a_stopped_rank_goes_on_when_it_is_continued(
    start_rank: StartRank, wait_for: Callable[..., bool]
) -> None:
    rank = start_rank("sigstop:rank=0,step=2")
    assert wait_for(lambda: state(rank.pid) == "T")
    os.kill(rank.pid, signal.SIGCONT)
    said, _ = rank.communicate(timeout=30)
    assert said.splitlines() == ["step 1", "fault.begin", "fault.end", *ALL_STEPS[1:]]


@pytest.mark.parametrize(("name", "works"), [("deadlock", False), ("endless-loop", True)])
def test_a_stuck_rank_lives_and_does_no_step(
    name: str,
    works: bool,
    start_rank: StartRank,
    cpu_seconds: Callable[[int], float],
    wait_for: Callable[..., bool],
) -> None:
    fault = f"{name}:rank=0,step=2"
    rank = start_rank(fault)
    assert rank.stdout is not None
    assert [rank.stdout.readline() for _ in range(2)] == ["step 1\n", "fault.begin\n"]
    if works:
        before = cpu_seconds(rank.pid)
        assert wait_for(lambda: cpu_seconds(rank.pid) > before + 0.1)
    else:
        assert wait_for(lambda: state(rank.pid) == "S")
        before = cpu_seconds(rank.pid)
        time.sleep(0.3)
        assert cpu_seconds(rank.pid) < before + 0.1
    rank.kill()
    assert rank.communicate(timeout=30)[0] == ""
    said, _ = start_rank(fault).communicate(timeout=30)
    assert said.splitlines() == ALL_STEPS
