"""Several checks and one verdict; children that hang, die or are left alone; real slowness."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from collectors.errors import UsageError
from playbooks.checks.baseline import Baseline
from playbooks.checks.burn_in import BurnIn
from playbooks.checks.check import Measurement, Verdict
from playbooks.checks.child import Child, run_children
from playbooks.checks.hardware import Hardware
from playbooks.checks.processors import stay_on, usable_cores
from playbooks.checks.registry import CHECKS, Terms, measure_in_child
from playbooks.checks.suite import FULL, QUICK, Profile, better, measure_rounds, plan, run_checks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HARDWARE = Hardware(cpu="a processor", cores=2, memory_gib=24)
NONE = Baseline(hardware=HARDWARE)
MEMORY = Profile(checks=("memory",), budget_s=1.0)


def figure(value: float, **more: Any) -> Measurement:
    return Measurement(
        check="memory", subject="node0", metric="cores", value=value, unit="GB/s", **more
    )


def test_what_is_slow_once_is_measured_again() -> None:
    """And the better figure counts; what is slow twice is slow."""
    baseline = NONE.updated([figure(10.0)])
    for values, verdict in (([5.0, 9.0], Verdict.OK), ([5.0, 6.0], Verdict.SLOW)):
        left = list(values)
        found = run_checks(MEMORY, baseline, measure=lambda *_, left=left: [figure(left.pop(0))])
        assert found.verdict is verdict
        assert not left
        assert found.results[0].value == max(values)


def test_a_fault_in_either_run_counts() -> None:
    sound, corrupt = figure(9.0), figure(20.0, fault=Verdict.CORRUPT)
    assert better([sound], [corrupt]) == better([corrupt], [sound]) == [corrupt]
    other = replace(sound, subject="node1")
    assert better([sound], [other]) == [sound, other]


def test_tolerance_is_the_callers() -> None:
    baseline = NONE.updated([figure(10.0)])
    strict = run_checks(MEMORY, baseline, tolerance=0.05, measure=lambda *_: [figure(9.0)])
    assert strict.verdict is Verdict.SLOW
    assert not strict.fine


@pytest.mark.parametrize("profile", [QUICK, FULL, replace(FULL, budget_s=0.0)])
def test_the_plan_keeps_the_budget(profile: Profile) -> None:
    planned = plan(profile)
    assert list(planned) == list(profile.checks)
    total = sum(CHECKS[name].start_s + terms.seconds for name, terms in planned.items())
    least = sum(CHECKS[name].start_s + 0.1 for name in planned)
    assert total <= max(profile.budget_s, least) + 1e-9


def test_unknown_checks_are_refused() -> None:
    with pytest.raises(UsageError, match="no check gpu"):
        plan(replace(QUICK, checks=("gpu",)))
    with pytest.raises(UsageError):
        plan(replace(QUICK, checks=()))


def test_rounds_for_a_baseline_are_kept_apart() -> None:
    rounds = measure_rounds(MEMORY, rounds=3, measure=lambda *_: [figure(1.0)])
    assert rounds == [[figure(1.0)]] * 3


def test_a_check_that_hangs_has_failed() -> None:
    """It measures for a minute, and may take a fifth of a second."""
    begun = time.monotonic()
    (found,) = measure_in_child("memory", Terms(seconds=60.0, grace_s=-59.8))
    assert found.fault is Verdict.FAILED
    assert "no answer" in found.detail
    assert time.monotonic() - begun < 10


def test_units_that_hang_have_failed_each_by_its_name() -> None:
    """They have no time to answer in."""
    found = BurnIn(grace_s=1.0).measure(0.0)
    assert {measured.fault for measured in found} == {Verdict.FAILED}
    assert {f"core:{core} float32" for core in usable_cores()} <= {each.subject for each in found}


def test_a_child_that_dies_says_of_what() -> None:
    answers = run_children(
        [
            Child(module="playbooks.checks.registry", arguments=("no-such-check", "1", "1")),
            Child(module="playbooks.checks.no_such_module"),
        ],
        limit_s=30.0,
    )
    assert [bool(answer.failure) for answer in answers] == [True, True]
    assert "invalid choice" in answers[0].failure
    assert "no_such_module" in answers[1].failure


def test_children_end_with_a_parent_that_is_killed() -> None:
    arguments = ["--only", "burn-in", "--budget-s", "60"]
    parent = subprocess.Popen(
        [sys.executable, "-P", "-m", "playbooks.checks", *arguments], stdout=subprocess.DEVNULL
    )
    try:
        children = wait_for_descendants(parent.pid, 1 + len(usable_cores()))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def wait_for_descendants(pid: int, count: int) -> list[psutil.Process]:
    """All of them, once there are enough and they have had time to depend on their parents."""
    deadline = time.monotonic() + 20
    while len(found := psutil.Process(pid).children(recursive=True)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    return found


def host_verdict(*arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
    result = subprocess.run(
        [sys.executable, "-P", "-m", "playbooks.checks", "--json", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )
    return result.returncode, json.loads(result.stdout or "{}")


def test_as_a_child_it_prints_one_document(home: Path) -> None:
    code, found = host_verdict("--only", "memory,loopback", "--budget-s", "1")
    assert (code, found["verdict"], found["fine"]) == (0, "ok", True)
    assert {result["name"] for result in found["results"]} == {"memory", "loopback"}
    assert all(result["detail"] == "no baseline" for result in found["results"])
    assert not home.exists()


def test_a_flipped_bit_makes_the_host_corrupt(home: Path) -> None:
    code, found = host_verdict("--only", "burn-in", "--budget-s", "1", "--flip-bit", "2")
    assert (code, found["verdict"], found["fine"]) == (1, "corrupt", False)
    assert not found["sound"]
    assert all("elements are wrong" in result["detail"] for result in found["results"])
    assert not home.exists()


def test_usage_errors_have_their_exit_code(home: Path) -> None:
    code, found = host_verdict("--only", "nonsense")
    assert (code, found) == (2, {})
    assert not home.exists()


@contextmanager
def hogs(core: int, count: int) -> Iterator[None]:
    """Processes that do nothing but use one core."""
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile True: pass"
    started = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    try:
        for hog in started:
            assert hog.stdout is not None
            hog.stdout.readline()
        yield
    finally:
        for hog in started:
            hog.kill()
            hog.communicate()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no pinning on this system")
def test_a_core_that_others_use_is_slow() -> None:
    """Four busy neighbours on one core: a fifth is left of what it gave."""
    before = os.sched_getaffinity(0)
    core = min(before)
    stay_on(core)  # and with that, all that is started: this one core is the machine
    try:
        profile = Profile(checks=("burn-in",), budget_s=0.9)
        (quiet,) = measure_rounds(profile, rounds=1)
        baseline = NONE.updated(quiet)
        with hogs(core, 4):
            found = run_checks(profile, baseline)
    finally:
        os.sched_setaffinity(0, before)
    assert found.verdict is Verdict.SLOW
    assert found.sound
    (result,) = (each for each in found.results if each.subject.startswith("core"))
    assert result.subject == f"core:{core} float32"
    assert int(result.detail.partition("core ")[2].partition("%")[0]) < 60
