"""Ranks do not outlive a launcher that was killed, and no other process pays for it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from collectors.board import own_facts
from collectors.clock import now_ns
from collectors.run import RunDirectory
from opsuite.watchdog.orphans import KILL_S, TERMINATE_S, Orphans
from opsuite.watchdog.voice import Voice

if TYPE_CHECKING:
    from collectors.board import BoardFacts

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
ROOT = Path(__file__).parents[2]
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True);"
    "time.sleep(60)"
)
LAUNCHER = """
import os, subprocess, sys, time
script, run = sys.argv[1:]
words = [script, run, "0", "1", "3", "lock"]
rank = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
impatient = (
    "import sys, opsuite.watchdog.orphans as o; o.TERMINATE_S = 0.5;"
    "from opsuite.watchdog.__main__ import main; sys.exit(main())"
)
dog = subprocess.Popen(
    [sys.executable, "-c", impatient, run, "--launcher", str(os.getpid())],
    stdout=subprocess.DEVNULL, start_new_session=True,
)
print(rank.pid, dog.pid, flush=True)
time.sleep(60)
"""


def start(code: str) -> tuple[subprocess.Popen[bytes], BoardFacts]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    return process, replace(own_facts("p", 0, 1), pid=process.pid, since_ns=now_ns())


def test_only_ranks_that_live_since_then_are_ended_and_step_by_step(tmp_path: Path) -> None:
    stubborn, its_facts = start(STUBBORN)
    other, others_facts = start("import time; print(1, flush=True); time.sleep(60)")
    former = replace(others_facts, since_ns=1)  # had that number before
    with stubborn, other:
        try:
            ranks = [its_facts, former]
            Orphans(os.getppid(), Voice(tmp_path)).look(ranks, 0.0)
            orphans = Orphans(os.getpid(), Voice(tmp_path))  # which is not our parent
            for now_s in (5.0, 5.0 + TERMINATE_S, 6.0 + TERMINATE_S):
                orphans.look(ranks, now_s)
            assert stubborn.poll() is None
            told = (tmp_path / "watchdog.log").read_text()
            assert told.count("gets SIGTERM") == 1
            orphans.look(ranks, 5.0 + KILL_S)
            assert stubborn.wait(10) == -signal.SIGKILL
            assert other.poll() is None
        finally:
            stubborn.kill()
            other.kill()


def test_a_killed_launcher_takes_its_ranks_along(home: Path) -> None:
    run = RunDirectory.create(
        home, name="test", kind="training", command=["train"], config={}, world_size=1
    )
    script = Path(__file__).with_name("watched_rank.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(script), str(run.path)],
        stdout=subprocess.PIPE,
        env=environment,
    )
    with launcher:
        assert launcher.stdout is not None
        rank, dog = map(int, launcher.stdout.readline().split())
        waiting = [os.pidfd_open(rank), os.pidfd_open(dog)]
        deadline = time.monotonic() + 15
        while not any((run.path / "boards").glob("*.board")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        launcher.kill()
    try:
        for process in waiting:
            assert select.select([process], [], [], 15)[0], "it lives on"
    finally:
        for process in waiting:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)
    assert "its launcher is gone" in (run.logs / "watchdog.log").read_text()
