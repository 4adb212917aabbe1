"""The straggler playbook on synthetic runs: names the culprit, its steps, and nobody else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playbooks.diagnosis import PLAYBOOKS
from playbooks.finding import Confidence
from playbooks.host_contention import find_host_contention
from playbooks.step_times import StepTimes
from playbooks.straggler import find_stragglers

STEPS = 150


def healthy_run(seed: int, *, ranks: int = 2, noise: float = 0.05, drift: float = 0.0) -> StepTimes:
    """Own times with independent noise and, on request, slow swings of each rank's own."""
    rng = np.random.default_rng(seed)
    shape = (STEPS, ranks)
    swings = drift * np.sin(
        np.arange(STEPS)[:, None] / rng.uniform(8, 30, ranks) + rng.uniform(0, 6, ranks)
    )
    level = np.exp(rng.normal(0, noise, shape) + swings)
    own = {
        "data": 0.0005 * np.exp(rng.normal(0, 0.5, shape)),
        "forward": 0.03 * level,
        "backward": 0.06 * level * np.exp(rng.normal(0, noise / 2, shape)),
        "optimizer": 0.01 * level,
    }
    return with_waiting(
        StepTimes(
            run_id="synthetic",
            steps=np.arange(1, STEPS + 1),
            ranks=np.arange(ranks),
            hosts=("host",) * ranks,
            duration=np.zeros(shape),
            own=own,
            blocked=np.zeros(shape),
            run_queue_wait=np.abs(rng.normal(0.001, 0.0005, shape)),
            cpu_time=0.1 * level,
            throttled=np.zeros(shape),
            garbage=np.zeros(shape),
        )
    )


def with_waiting(times: StepTimes) -> StepTimes:
    """Everyone waits for the slowest: what a synchronous step does to the wall clock."""
    slowest = times.work.max(axis=1, keepdims=True)
    return replace(times, duration=slowest * np.ones_like(times.work), blocked=slowest - times.work)


def slowed(
    times: StepTimes,
    rank: int,
    first: int,
    last: int,
    factor: float,
    *,
    phases: tuple[str, ...] = ("forward", "backward", "optimizer"),
    waits: bool = False,
    computes: bool = False,
) -> StepTimes:
    """Steps first..last of a rank take ``factor`` times as long.

    It ``waits`` for its core in that time, or ``computes`` all the while, or does neither.
    """
    own = {name: values.copy() for name, values in times.own.items()}
    wait, busy = times.run_queue_wait.copy(), times.cpu_time.copy()
    for name in phases:
        part = own[name][first - 1 : last, rank]
        if waits:
            wait[first - 1 : last, rank] += part * (factor - 1)
        if computes:
            busy[first - 1 : last, rank] += part * (factor - 1)
        own[name][first - 1 : last, rank] = part * factor
    return with_waiting(replace(times, own=own, run_queue_wait=wait, cpu_time=busy))


def first_steps(times: StepTimes, count: int) -> StepTimes:
    """The same run, ended after so many steps."""
    return replace(
        times,
        steps=times.steps[:count],
        duration=times.duration[:count],
        own={name: own[:count] for name, own in times.own.items()},
        blocked=times.blocked[:count],
        run_queue_wait=times.run_queue_wait[:count],
        cpu_time=times.cpu_time[:count],
        throttled=times.throttled[:count],
        garbage=times.garbage[:count],
    )


def burdened(
    times: StepTimes, first: int, phase: str, seconds: float, *, computes: float, waits: float
) -> StepTimes:
    """Rank 1 spends ``seconds`` more in a phase, those parts of it on a core and waiting for it."""
    own = {name: values.copy() for name, values in times.own.items()}
    wait, busy = times.run_queue_wait.copy(), times.cpu_time.copy()
    own.setdefault(phase, np.full_like(busy, 0.001))
    own[phase][first - 1 :, 1] += seconds
    busy[first - 1 :, 1] += computes * seconds
    wait[first - 1 :, 1] += waits * seconds
    return with_waiting(replace(times, own=own, run_queue_wait=wait, cpu_time=busy))


def weathered(times: StepTimes, seed: int) -> StepTimes:
    """Now and then a core is slower by up to a third, for some steps, and nobody can help it."""
    rng, level = np.random.default_rng(seed), np.ones_like(times.duration)
    for rank in range(times.ranks.size):
        first = int(rng.integers(-10, 40))
        while first < times.steps.size:
            last = first + int(rng.integers(8, 26))
            level[max(first, 0) : max(last, 0), rank] = rng.uniform(1.1, 1.33)
            first = last + int(rng.integers(40, 120))
    own = {name: values * level for name, values in times.own.items()}
    return with_waiting(replace(times, own=own, cpu_time=times.cpu_time * level))


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("factor", [1.4, 2.0])
def test_slow_rank_is_named_with_its_steps(ranks: int, factor: float) -> None:
    for seed in range(20):
        rng = np.random.default_rng(1000 + seed)
        rank, first = int(rng.integers(ranks)), int(rng.integers(10, 80))
        last = first + int(rng.integers(15, 60))
        run = slowed(healthy_run(seed, ranks=ranks), rank, first, last, factor, waits=True)
        (finding,) = find_stragglers(run)
        assert finding.ranks == (rank,)
        assert abs(finding.first_step - first) <= 3
        assert abs(finding.last_step - last) <= 3
        assert finding.slowdown == pytest.approx(factor, rel=0.1)
        assert finding.phase == "backward"
        assert finding.cause == "cpu_contention"


@pytest.mark.parametrize("spent", ["throttled", "garbage"])
def test_what_a_rank_is_stopped_by_is_told_from_contention_and_work(spent: str) -> None:
    causes = {"throttled": "cpu_throttling", "garbage": "garbage_collection"}
    for seed in range(10):
        run = slowed(healthy_run(seed), 1, 40, 80, 2.0, waits=spent == "throttled")
        lost = np.zeros_like(run.duration)
        lost[39:80, 1] = run.work[39:80, 1] / 2
        lost += 0.001
        throttled, garbage = (lost, run.garbage) if spent == "throttled" else (run.throttled, lost)
        run = replace(run, throttled=throttled, garbage=garbage)
        (finding,) = find_stragglers(run)
        assert (finding.ranks, finding.cause) == ((1,), causes[spent])


def test_share_lost_is_what_the_run_would_have_saved() -> None:
    run = healthy_run(0)
    slow = slowed(run, 1, 60, 110, 2.0)
    (finding,) = find_stragglers(slow)
    assert finding.share_lost == pytest.approx(1 - run.wall / slow.wall, abs=0.03)
    assert finding.confidence is Confidence.CERTAIN
    assert finding.cause == "unknown"  # it did not wait for a core: the cause is not known


def test_healthy_runs_name_nobody() -> None:
    for seed in range(200):
        for noise, drift in ((0.02, 0.0), (0.10, 0.0), (0.25, 0.0), (0.05, 0.04)):
            assert find_stragglers(healthy_run(seed, noise=noise, drift=drift)) == []


def test_waiting_rank_is_not_blamed_for_the_rank_it_waits_for() -> None:
    run = slowed(healthy_run(3), 1, 40, 90, 3.0)
    assert run.blocked[40:90, 0].min() > 0.1  # rank 0 looks slow to any timer
    assert [finding.ranks for finding in find_stragglers(run)] == [(1,)]


def test_core_that_computes_more_slowly_is_told_apart_and_only_if_it_costs_something() -> None:
    """Twenty steps at 1.3x are a shared machine's weather; a third of the run is not."""
    (finding,) = find_stragglers(slowed(healthy_run(4), 1, 60, 110, 1.6, computes=True))
    assert (finding.ranks, finding.cause) == ((1,), "slow_core")
    assert find_stragglers(slowed(healthy_run(4), 1, 60, 80, 1.3, computes=True)) == []
    assert find_stragglers(slowed(healthy_run(4), 1, 60, 80, 1.5, waits=True)) != []


def test_two_culprits_are_both_named() -> None:
    run = slowed(healthy_run(5, ranks=4), 1, 20, 50, 2.0)
    run = slowed(run, 3, 90, 130, 1.8)
    assert {f.ranks[0] for f in find_stragglers(run)} == {1, 3}


def test_slow_from_the_first_step_to_the_last() -> None:
    (finding,) = find_stragglers(slowed(healthy_run(6, ranks=4), 2, 1, STEPS, 1.5))
    assert finding.ranks == (2,)
    assert finding.last_step - finding.first_step > STEPS * 0.9
    assert finding.cause == "unknown"
    (finding,) = find_stragglers(slowed(healthy_run(6), 1, 1, STEPS, 1.5, waits=True))
    assert (finding.ranks, finding.cause) == ((1,), "cpu_contention")


@pytest.mark.parametrize("first", [12, 23, 38, 60])
def test_slow_in_most_of_the_run_but_not_in_all(first: int) -> None:
    """The quiet beginning is too short to tell what is usual, and too long to be left out."""
    for seed in range(10):
        run = slowed(healthy_run(seed, ranks=2 + seed % 3), 1, first, STEPS, 2.5)
        (finding,) = find_stragglers(run)
        assert finding.ranks == (1,)
        assert abs(finding.first_step - first) <= 3
        assert finding.last_step >= STEPS - 3


def test_one_phase_alone_is_named() -> None:
    run = slowed(healthy_run(7), 0, 50, 100, 4.0, phases=("optimizer",))
    (finding,) = find_stragglers(run)
    assert (finding.ranks, finding.phase) == ((0,), "optimizer")


@pytest.mark.parametrize("phase", ["data", "forward", "backward", "optimizer", "other"])
@pytest.mark.parametrize("first", [1, 15])
def test_cause_is_in_one_phase_or_in_the_core(phase: str, first: int) -> None:
    """Work of its own, a crowded core with it, and waiting that no core is to blame for."""
    for computes, waits, cause in (
        (1.0, 0.0, "extra_work_of_its_own"),
        (0.8, 0.6, "extra_work_of_its_own"),
        (0.0, 0.0, "waits_off_the_processor"),
    ):
        run = burdened(healthy_run(20), first, phase, 0.08, computes=computes, waits=waits)
        (finding,) = find_stragglers(first_steps(run, 40))
        assert (finding.ranks, finding.phase, finding.cause) == ((1,), phase, cause)
        assert f"in {phase} it" in finding.action


@pytest.mark.parametrize("first", [1, 15])
def test_slow_core_slows_whatever_is_computed(first: int) -> None:
    """More tokens than its peers have make its forward and backward longer, not its optimizer."""
    slow = slowed(healthy_run(21), 1, first, STEPS, 1.6, computes=True)
    loaded = slowed(
        healthy_run(21), 1, first, STEPS, 1.6, phases=("forward", "backward"), computes=True
    )
    for run, cause in ((slow, "slow_core"), (loaded, "extra_work_of_its_own")):
        (finding,) = find_stragglers(run)
        assert (finding.phase, finding.cause) == ("backward", cause)


@pytest.mark.parametrize("steps", [18, 24, 40])
def test_short_runs_name_nobody_for_the_weather_of_their_cores(steps: int) -> None:
    for seed in range(40):
        ranks = 2 + seed % 3
        swinging = healthy_run(seed, ranks=ranks, drift=0.1)
        assert find_stragglers(first_steps(swinging, steps)) == []
        steady = healthy_run(seed, ranks=ranks)
        assert find_stragglers(weathered(first_steps(steady, steps), seed)) == []


def test_short_runs_name_a_rank_that_is_plainly_slow() -> None:
    for seed in range(20):
        for steps, factor in ((20, 2.0), (40, 1.6)):
            slow = slowed(healthy_run(seed), 1, 1, steps, factor, computes=seed % 2 > 0)
            (finding,) = find_stragglers(first_steps(slow, steps))
            assert finding.ranks == (1,)


def test_rank_that_is_twice_as_slow_in_every_stretch_is_named_however_noisy_its_host() -> None:
    """By how much it lags swings with the crowd; that it lags does not."""
    swings = 2.9 * np.exp(0.5 * np.sin(np.arange(STEPS) / 8.0))
    run = healthy_run(23)
    own = {name: values.copy() for name, values in run.own.items()}
    for values in own.values():
        values[:, 1] *= swings
    (finding,) = find_stragglers(first_steps(with_waiting(replace(run, own=own)), 60))
    assert (finding.ranks, finding.first_step, finding.last_step) == ((1,), 3, 60)
    assert finding.confidence is Confidence.LIKELY


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    ranks=st.integers(2, 4),
    steps=st.integers(12, STEPS),
    first=st.integers(1, 60),
    factor=st.floats(1.2, 200.0),
    threads=st.floats(0.0, 16.0),
    overlap=st.floats(1.0, 5.0),
)
def test_nothing_costs_more_than_the_run(
    *, seed: int, ranks: int, steps: int, first: int, factor: float, threads: float, overlap: float
) -> None:
    """Whatever the threads of a rank waited together, and where phases overlap in what we read."""
    run = slowed(healthy_run(seed, ranks=ranks), 0, first, STEPS, factor)
    waits = run.run_queue_wait.copy()
    waits[first:] = threads * run.duration[first:]
    own = {name: values * overlap for name, values in run.own.items()}
    run = first_steps(replace(run, run_queue_wait=waits, own=own), steps)
    for finding in (finding for playbook in PLAYBOOKS for finding in playbook(run)):
        assert 0 <= finding.share_lost <= 1


def test_evidence_has_a_unit_and_says_something() -> None:
    """Also of a run without a quiet step; a phase of no length is no evidence."""
    for first in (1, 60):
        run = slowed(healthy_run(22), 1, first, STEPS, 2.0, computes=True)
        crowded = slowed(
            slowed(healthy_run(22), 0, first, STEPS, 3.0, waits=True),
            1,
            first,
            STEPS,
            3.0,
            waits=True,
        )
        crowded = replace(crowded, run_queue_wait=8 * crowded.run_queue_wait)
        (slow,), (full,) = find_stragglers(run), find_host_contention(crowded)
        assert {each.unit for each in (*slow.evidence, *full.evidence)} == {"s"}
        told = {each.what for each in slow.evidence}
        assert {"own time in backward", "its peers blocked a step"} < told
        assert any("on a core" in what for what in told)
        assert "own time in data" not in told
        figures = {each.what: each.value or 0.0 for each in full.evidence}
        assert max(figures.values()) <= figures["a step"]


def test_rank_that_becomes_faster_is_not_its_peers_fault() -> None:
    """The peers' ratio to it rises, but they are no slower than before."""
    run = slowed(healthy_run(8), 0, 75, STEPS, 0.5)
    assert find_stragglers(run) == []


def test_single_monstrous_steps_name_nobody() -> None:
    run = healthy_run(9)
    for step in (30, 70, 71, 120):
        run = slowed(run, 1, step, step, 30.0)
    assert find_stragglers(run) == []


def test_crowded_host_is_noted_without_naming_a_rank() -> None:
    run = healthy_run(10)
    for rank in (0, 1):
        run = slowed(run, rank, 60, 100, 1.8, waits=True)
    assert find_stragglers(run) == []
    (finding,) = find_host_contention(run)
    assert (finding.ranks, finding.hosts) == ((), ("host",))
    assert abs(finding.first_step - 60) <= 2
    assert abs(finding.last_step - 100) <= 2
    assert find_host_contention(healthy_run(11)) == []


def test_without_scheduler_statistics_the_rank_is_still_named() -> None:
    run = slowed(healthy_run(12), 1, 60, 110, 2.0)
    nothing = np.full_like(run.duration, np.nan)
    run = replace(run, run_queue_wait=nothing, cpu_time=nothing)
    (finding,) = find_stragglers(run)
    assert (finding.ranks, finding.cause) == ((1,), "unknown")


def test_too_little_to_compare_is_no_finding() -> None:
    one_rank = healthy_run(13, ranks=1)
    assert find_stragglers(slowed(one_rank, 0, 50, 90, 2.0)) == []
    short = replace(first_steps(one_rank, 0), own={})
    assert find_stragglers(short) == []
    assert find_host_contention(short) == []
