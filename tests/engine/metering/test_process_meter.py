"""Time on a core, waiting for one, stopped by a quota and collecting garbage are told apart."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.metering.process_meter import ProcessMeter
from engine.metering.thread_waits import ThreadWaits
from engine.metering.throttling import Throttling

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
    assert ThreadWaits(tmp_path / "nothing").added_s() is None
    assert Throttling(tmp_path / "nothing").added_s() == 0.0


def test_collections_count_whoever_asks_for_them() -> None:
    heap = [[number] for number in range(100_000)]
    gc.disable()
    try:
        meter = ProcessMeter()
        before = len(gc.callbacks)
        begun = time.perf_counter()
        gc.collect()
        took = time.perf_counter() - begun
    finally:
        gc.enable()
    assert len(heap) == 100_000
    assert 0.5 * took <= meter.read().gc_s <= took
    assert meter.read().gc_s == 0.0
    meter.close()
    assert len(gc.callbacks) == before - 1


def test_a_quota_shows_within_the_second_it_began_in(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/cpu/job"
    group.mkdir(parents=True)
    proc = tmp_path / "proc/self"
    proc.mkdir(parents=True)
    mount = "30 29 0:27 / /sys/fs/cgroup/cpu rw shared:10 - cgroup cgroup rw,cpu"
    (proc / "mountinfo").write_text(mount + "\n")
    (proc / "cgroup").write_text("4:cpu:/\n")
    (group.parent / "cpu.cfs_quota_us").write_text("-1")
    (group.parent / "cpu.cfs_period_us").write_text("100000")
    now = 0.0
    meter = Throttling(tmp_path, lambda: now)
    assert meter.added_s() == 0.0
    (proc / "cgroup").write_text("4:cpu:/job\n")
    (group / "cpu.cfs_quota_us").write_text("40000")
    (group / "cpu.cfs_period_us").write_text("100000")
    (group / "cpu.stat").write_text("nr_periods 5\nnr_throttled 4\nthrottled_time 240000000\n")
    now = 1.5
    assert meter.added_s() == pytest.approx(0.24)
    assert meter.added_s() == 0.0
    (group / "cpu.stat").write_text("nr_periods 9\nnr_throttled 8\nthrottled_time 480000000\n")
    assert meter.added_s() == pytest.approx(0.24)
    (group / "cpu.stat").unlink()
    assert meter.added_s() == 0.0
