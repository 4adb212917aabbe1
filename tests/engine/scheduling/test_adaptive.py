"""Our default policy learns how long answers are, and keeps its promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.profiles.latency import latency_of
from engine.scheduling.adaptive import Adaptive
from engine.scheduling.hazards import Hazards
from engine.scheduling.limits import Limits
from engine.scheduling.promises import Promises
from engine.scheduling.window import Window
from engine.simulation.serve.comparison import capacity, simulate
from engine.simulation.serve.costs import ServingCosts
from engine.simulation.serve.metrics import Metrics, measure
from engine.simulation.serve.set_up import SetUp
from engine.simulation.serve.workload import find_workload

KIND = 10


def learn(policy: Any, job: Any, lengths: list[int], prompt: int = 8) -> float:
    """Jobs that run alone, one after the other, a token a second; when the last has ended."""
    now = 0.0
    for number, length in enumerate(lengths, 1_000):
        each = job(number, prompt, length, arrived_s=now)
        policy.arrive(each, now)
        for _ in range(length):
            now += 1.0
            each.cached, each.generated = each.known, each.generated + 1
            policy.ran([each], 1.0, now)
        policy.leave(each, now, finished=True)
    return now


def test_the_mean_that_is_left_is_learnt() -> None:
    rng = np.random.default_rng(0)
    lengths = np.rint(np.clip(rng.lognormal(np.log(230), 0.9, 2_000), 4, 1024)).astype(int)
    hazards = Hazards()
    for length in lengths.tolist():
        hazards.ended(KIND, 0, length)
    for attained in (0, 16, 128, 256, 512):
        left = lengths[lengths > attained].mean() - attained
        assert hazards.left(KIND, hazards.step_of(attained)) == pytest.approx(left, rel=0.1)


def test_jobs_that_still_run_count_for_as_far_as_they_came() -> None:
    """Half end after 8 tokens, half run on and on: half of those that begin do not end early."""
    hazards = Hazards()
    far = hazards.step_of(1024)
    for _ in range(512):
        hazards.ended(KIND, 0, 8)
        hazards.passed(KIND, 0, far)
    assert hazards.price(KIND, 0) == pytest.approx(16, rel=0.1)
    assert hazards.price(KIND, hazards.step_of(8)) > 1_000


def test_a_class_of_prompts_has_its_own_answers() -> None:
    hazards = Hazards()
    short, long = hazards.class_of(300), hazards.class_of(900)
    for _ in range(1_000):
        hazards.ended(short, 0, 10)
        hazards.ended(long, 0, 400)
    assert hazards.left(short, 0) == pytest.approx(10, rel=0.2)
    assert hazards.left(long, 0) == pytest.approx(400, rel=0.2)
    assert hazards.length(long, 300) == pytest.approx(400, rel=0.2)


def test_classes_that_do_not_differ_are_not_told_apart() -> None:
    """Few jobs of each of many classes, all with the same distribution: what a class has seen of
    its own is chance."""
    rng = np.random.default_rng(1)
    hazards = Hazards()
    for length in rng.integers(1, 200, 2_000).tolist():
        hazards.ended(int(rng.integers(30)), 0, length)
    left = [hazards.left(kind, 0) for kind in range(30)]
    assert max(left) < 1.05 * min(left)


def test_what_is_learnt_orders_jobs(job: Any, profile: Any) -> None:
    """Half give 8 tokens, half 200: one that has given more than 8 is a long one, and yields."""
    policy = Adaptive(profile)
    learn(policy, job, [8, 200] * 64)
    old, fresh = job(0, 4, 200), job(1, 4, 8)
    policy.arrive(old, 0.0)
    for _ in range(7):
        old.cached, old.generated = old.known, old.generated + 1
        policy.ran([old], 1.0, 0.0)
    policy.arrive(fresh, 0.0)
    assert [each.number for each in policy.order(0.0)] == [0, 1]
    for _ in range(5):
        old.cached, old.generated = old.known, old.generated + 1
        policy.ran([old], 1.0, 0.0)
    assert [each.number for each in policy.order(0.0)] == [1, 0]


def test_a_shorter_prompt_goes_first_until_the_long_one_is_late(job: Any, profile: Any) -> None:
    policy = Adaptive(profile)
    policy.within(Limits(max_batch=4, blocks=1_000))
    now = learn(policy, job, [60] * 192)
    long, short = job(0, 40, 60, arrived_s=now), job(1, 8, 60, arrived_s=now)
    policy.arrive(long, now)
    policy.arrive(short, now)
    assert [each.number for each in policy.order(now)] == [1, 0]
    assert [each.number for each in policy.order(1e6)] == [0, 1]
    assert policy.steady_s([short], 1e6) > 0


def test_a_prefill_in_chunks_keeps_its_rank(job: Any, profile: Any) -> None:
    policy = Adaptive(profile)
    begun = job(0, 64, 9)
    policy.arrive(begun, 0.0)
    before = policy.rank(begun)
    begun.cached = 32
    policy.ran([begun], 1.0, 1.0)
    learn(policy, job, [3] * 256)
    assert policy.rank(begun) == before


def test_a_promise_is_tighter_to_long_prompts() -> None:
    """Of prompts of 1 to 100 tokens, those of 91 and more are the longest tenth."""
    promises = Promises()
    assert promises.allowed_s(long=True) == np.inf
    long = set()
    for number in range(5_000):
        prompt = 100 - number % 100
        if promises.is_long(prompt):
            long.add(prompt)
        promises.ended(prompt, 10.0 if prompt > 90 else 1_000.0)
    assert long >= set(range(91, 101))
    assert not promises.is_long(80)
    assert promises.allowed_s(long=True) == pytest.approx(12.5)
    assert promises.allowed_s(long=False) == pytest.approx(300.0)


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 12))
def test_a_window_has_the_latest_in_order(figures: list[int], size: int) -> None:
    window = Window(size)
    for each in figures:
        window.add(each)
    assert [window.at(index) for index in range(len(window))] == sorted(figures[-size:])


@pytest.fixture(scope="module")
def results() -> list[Metrics]:
    """FCFS, then adaptive twice, where requests come as fast as FCFS can serve them."""
    latency = latency_of((0.018, 1e-4, 1e-8), (0.02, 6e-7, 4e-5), (0.02, 6e-7, 4e-5), 10_000)
    costs = ServingCosts(model="m", tp=1, latency=latency, kv_bytes_per_token=None, source="here")
    set_up = SetUp(costs=costs, max_batch=16)
    rate = capacity(set_up, find_workload("heavy-tailed", requests=600))
    workload = find_workload("heavy-tailed", requests=600, rate=rate)
    policies = ("fcfs", "adaptive", "adaptive")
    return [measure(simulate(set_up, policy, workload)) for policy in policies]


def test_the_mean_is_better_and_long_prompts_do_not_pay(results: list[Metrics]) -> None:
    fcfs, adaptive, _ = results
    assert fcfs.all.jct is not None
    assert adaptive.all.jct is not None
    assert adaptive.all.jct.mean < 0.9 * fcfs.all.jct.mean
    assert fcfs.long.jct is not None
    assert adaptive.long.jct is not None
    assert adaptive.long.jct.p99 < 1.5 * fcfs.long.jct.p99


def test_it_is_deterministic(results: list[Metrics]) -> None:
    assert results[1] == results[2]
