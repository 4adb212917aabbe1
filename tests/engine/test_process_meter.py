"""Time on a core and time waiting for one are told apart."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.process_meter import ProcessMeter

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists() or sys.platform != "linux",
    reason="the kernel does not tell run-queue waits",
)


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_sleeping_costs_nothing_and_computing_its_time() -> None:
    meter = ProcessMeter()
    time.sleep(0.05)
    assert meter.read().cpu_time_s < 0.04
    spin(0.05)
    assert 0.05 <= meter.read().cpu_time_s < 0.15


def test_two_busy_processes_on_one_core_wait_for_each_other() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        meter = ProcessMeter()
        command = "import time\nwhile time.process_time() < 0.15: pass"
        with subprocess.Popen([sys.executable, "-S", "-c", command]):
            spin(0.15)
            waited = meter.read().run_queue_wait_s
    finally:
        os.sched_setaffinity(0, allowed)
    assert waited is not None
    assert waited > 0.05


def test_missing_is_none(tmp_path: Path) -> None:
    assert ProcessMeter(tmp_path / "nothing").read().run_queue_wait_s is None
