"""Our default policy learns how long answers are, and keeps its promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.profiles.latency import latency_of
from engine.scheduling.adaptive import Adaptive
from engine.scheduling.hazards import Hazards
from engine.scheduling.promises import Promises
from engine.simulation.serve.comparison import capacity, simulate
from engine.simulation.serve.costs import ServingCosts
from engine.simulation.serve.metrics import Metrics, measure
from engine.simulation.serve.set_up import SetUp
from engine.simulation.serve.workload import find_workload

KIND = 10


def learn(policy: Any, job: Any, lengths: list[int], prompt: int = 8) -> None:
    """Jobs that run alone, one after the other."""
    for number, length in enumerate(lengths, 1_000):
        each = job(number, prompt, length)
        policy.arrive(each, 0.0)
        for _ in range(length):
            each.cached, each.generated = each.known, each.generated + 1
            policy.ran([each], 1.0, 0.0)
        policy.leave(each, 0.0, finished=True)


def test_the_mean_that_is_left_is_learnt() -> None:
    rng = np.random.default_rng(0)
    lengths = np.rint(np.clip(rng.lognormal(np.log(230), 0.9, 2_000), 4, 1024)).astype(int)
    hazards = Hazards()
    for length in lengths.tolist():
        hazards.ended(KIND, 0, length)
    for given in (0, 16, 128, 256, 512):
        left = lengths[lengths > given].mean() - given
        assert hazards.left(KIND, hazards.step_of(given)) == pytest.approx(left, rel=0.1)


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
    assert hazards.left(short, 0) < hazards.left(long, 0) / 2


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
    learn(policy, job, [20] * 128)
    long, short = job(0, 1_000, 20), job(1, 8, 20)
    policy.arrive(long, 0.0)
    policy.arrive(short, 0.0)
    assert [each.number for each in policy.order(0.0)] == [1, 0]
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
    promises = Promises()
    for number in range(1_000):
        promises.make(number % 20, 50.0, learnt=True)
    assert promises.make(19, 10.0, learnt=True) == pytest.approx(75.0, rel=0.01)
    assert promises.make(3, 10.0, learnt=True) == pytest.approx(400.0, rel=0.01)
    assert promises.make(19, 100.0, learnt=True) == pytest.approx(150.0)


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
