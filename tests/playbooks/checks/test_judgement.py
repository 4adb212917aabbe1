"""Judging a figure by its baseline, and storing baselines."""

from __future__ import annotations

import json
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.errors import DataError, StorageError
from playbooks.checks.baseline import Baseline, baseline_path, load_baseline, save_baseline
from playbooks.checks.check import Measurement, Verdict, judge, worst
from playbooks.checks.hardware import Hardware, this_hardware

HARDWARE = Hardware(cpu="a processor", cores=2, memory_gib=24)


def measured(value: float | None, subject: str = "core:0", **more: Any) -> Measurement:
    return Measurement(
        check="burn-in", subject=subject, metric="core", value=value, unit="GFLOP/s", **more
    )


@given(value=st.floats(0, 1e6), baseline=st.floats(1e-3, 1e6), tolerance=st.floats(0, 0.9))
def test_slow_is_below_the_limit_and_nothing_else(
    value: float, baseline: float, tolerance: float
) -> None:
    result = judge(measured(value), baseline, tolerance)
    assert result.limit is not None
    assert (result.verdict is Verdict.SLOW) == (value < result.limit)
    assert result.verdict in {Verdict.OK, Verdict.SLOW}


@pytest.mark.parametrize("fault", [Verdict.CORRUPT, Verdict.FAILED, Verdict.SKIPPED])
def test_no_figure_outweighs_a_fault(fault: Verdict) -> None:
    assert judge(measured(1e9, fault=fault), 1.0).verdict is fault
    assert judge(measured(None, fault=fault), None).verdict is fault


def test_without_baseline_all_that_is_sound_is_ok_and_says_so() -> None:
    result = judge(measured(0.001), None)
    assert (result.verdict, result.detail) == (Verdict.OK, "no baseline")


def test_no_figure_is_a_failure() -> None:
    assert judge(measured(None), 1.0).verdict is Verdict.FAILED


def test_worst_counts_skipped_only_alone() -> None:
    assert worst([Verdict.SKIPPED, Verdict.OK]) is Verdict.OK
    assert worst([Verdict.SKIPPED]) is Verdict.SKIPPED
    assert worst([Verdict.SLOW, Verdict.CORRUPT, Verdict.FAILED]) is Verdict.CORRUPT
    assert not Verdict.SKIPPED.bad


def test_baseline_is_the_median_of_like_subjects_that_are_sound(tmp_path: Path) -> None:
    found = [measured(value, f"core:{value}") for value in (10.0, 11.0, 2.0)]
    found += [measured(99.0, fault=Verdict.CORRUPT), measured(None)]
    path = save_baseline(tmp_path, Baseline(hardware=HARDWARE).updated(found))
    stored = load_baseline(tmp_path, HARDWARE)
    assert stored.of(measured(1.0)) == 10.0
    assert stored.figures["burn-in/core"].samples == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_update_leaves_other_figures_as_they_are() -> None:
    memory = Measurement(check="memory", subject="node0", metric="2 cores", value=5.0, unit="GB/s")
    baseline = Baseline(hardware=HARDWARE).updated([memory]).updated([measured(1.0)])
    assert baseline.of(memory) == 5.0
    assert baseline.of(measured(3.0)) == 1.0


def test_a_figure_in_another_unit_is_no_baseline() -> None:
    baseline = Baseline(hardware=HARDWARE).updated([measured(7.0)])
    other = Measurement(check="burn-in", subject="x", metric="core", value=1.0, unit="TFLOP/s")
    assert baseline.of(other) is None


def test_other_hardware_has_another_baseline(tmp_path: Path) -> None:
    save_baseline(tmp_path, Baseline(hardware=HARDWARE).updated([measured(7.0)]))
    others = (
        replace(HARDWARE, cores=3),
        replace(HARDWARE, memory_gib=25),
        replace(HARDWARE, gpus=("NVIDIA H200",)),
        replace(HARDWARE, cpu="another"),
    )
    for hardware in others:
        assert load_baseline(tmp_path, hardware).of(measured(1.0)) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 9, "figures": {}}'])
def test_a_damaged_baseline_says_what_to_do(tmp_path: Path, text: str) -> None:
    path = save_baseline(tmp_path, Baseline(hardware=HARDWARE))
    path.write_text(text)
    with pytest.raises(DataError, match="baseline") as caught:
        load_baseline(tmp_path, HARDWARE)
    assert "--update-baseline" in caught.value.remedy


def test_a_figure_that_is_none_is_refused(tmp_path: Path) -> None:
    path = save_baseline(tmp_path, Baseline(hardware=HARDWARE).updated([measured(7.0)]))
    data = json.loads(path.read_text())
    data["figures"]["burn-in/core"]["median"] = float("nan")
    path.write_text(json.dumps(data))
    with pytest.raises(DataError):
        load_baseline(tmp_path, HARDWARE)


def test_a_home_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_text("")
    with pytest.raises(StorageError):
        save_baseline(home, Baseline(hardware=HARDWARE))


def test_this_hardware_is_the_same_each_time_and_names_no_host() -> None:
    hardware = this_hardware()
    assert hardware.fingerprint == this_hardware().fingerprint
    assert hardware.cpu
    assert socket.gethostname() not in str(baseline_path(Path(), hardware))
