"""Who asks ``opsuite run`` to end is heard: by the command, or in the end by force."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opsuite.running.stopping import HINT_S, LAST_S, Resort, Stopping

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="opsuite run needs Linux")
IMPATIENT = """
import opsuite.running.stopping as stopping
stopping.HINT_S = stopping.LAST_S = 0.5
from opsuite.cli.main import main
main()
"""
# As under mp.spawn, the parent waits at its exit for children who know nothing of the signal.
SPAWNS = """
import multiprocessing, os, signal, sys, time

def rank(number):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(1, b"rank %d\\n" % os.getpid())  # in one piece: print, unbuffered, writes several
    time.sleep(100)

if __name__ == "__main__":
    ranks = [multiprocessing.get_context("fork").Process(target=rank, args=(n,)) for n in range(2)]
    for each in ranks:
        each.start()
    ranks[0].join()
"""


def test_patience_ends_with_a_second_signal_after_the_hint() -> None:
    stopping = Stopping()
    assert stopping.look(100.0) is None
    assert stopping.asked("SIGINT", 100.0) is None
    assert stopping.asked("SIGTERM", 101.0) is None  # a debugger takes many
    assert stopping.look(100.0 + HINT_S - 0.1) is None
    assert stopping.look(100.0 + HINT_S) is Resort.HINT
    assert stopping.look(100.0 + HINT_S + 1) is None
    assert stopping.asked("SIGTERM", 120.0) is Resort.TERMINATE
    assert stopping.asked("SIGTERM", 121.0) is None
    assert stopping.look(120.0 + LAST_S - 0.1) is None
    assert stopping.look(120.0 + LAST_S) is Resort.KILL
    assert stopping.asked_by == "SIGINT"


def test_a_second_interrupt_ends_ranks_that_the_first_did_not_reach(tmp_path: Path) -> None:
    script = tmp_path / "spawns.py"
    script.write_text(SPAWNS, encoding="utf-8")
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", IMPATIENT, "run", "--", sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "OPSUITE_HOME": str(tmp_path / "home"),
            "OPSUITE_WATCHDOG": "0",
            "OPSUITE_COLLECT": "0",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )
    assert child.stdout is not None
    assert child.stderr is not None
    ranks = [int(child.stdout.readline().split()[1]) for _ in range(2)]
    child.send_signal(signal.SIGINT)
    for line in child.stderr:
        if "still running 0.5 s after SIGINT" in line:
            break
    assert all(Path(f"/proc/{rank}").exists() for rank in ranks)
    began_s = time.monotonic()
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    assert child.returncode == 130
    assert time.monotonic() - began_s < 8
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
