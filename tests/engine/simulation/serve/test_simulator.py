"""The simulated engine: every token at its time, the same whether or not decisions are skipped."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.profiles.latency import latency_of
from engine.scheduling.limits import MakeRoom
from engine.simulation.serve.comparison import POLICIES, capacity, simulate
from engine.simulation.serve.costs import ServingCosts
from engine.simulation.serve.request import Request, Workload
from engine.simulation.serve.set_up import SetUp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.simulation.serve.life import Outcome

LATENCY = latency_of((18e-3, 0.1e-3, 7e-9), (20e-3, 0.6e-6, 0.04e-3), (7e-3, 0.6e-6, 0.16e-3), 9)
COSTS = ServingCosts(
    model="tiny", tp=1, latency=LATENCY, kv_bytes_per_token=800_000, source="made up"
)
ROOMS = (None, *MakeRoom)


def set_up(**changes: Any) -> SetUp:
    given: dict[str, Any] = {"costs": COSTS, "kv_bytes_per_token": 800_000, "drain": None}
    return SetUp(**(given | changes))


def workload(*requests: tuple[float, int, int]) -> Workload:
    return Workload(
        name="given",
        requests=tuple(
            Request(arrival_s=arrival, prompt_tokens=prompt, output_tokens=output)
            for arrival, prompt, output in requests
        ),
    )


def random_workload(seed: int, count: int, rate: float) -> Workload:
    rng = np.random.default_rng(seed)
    prompts = np.exp(rng.uniform(0, np.log(400), count)).astype(int)
    outputs = np.exp(rng.uniform(0, np.log(150), count)).astype(int)
    times = rng.exponential(1 / rate, count).cumsum()
    return workload(*zip(times.tolist(), prompts.tolist(), outputs.tolist(), strict=True))


class Told:
    """The whole trace: every token's time."""

    def __init__(self) -> None:
        self.iterations: list[tuple[float, tuple[int, ...]]] = []

    def __call__(self, end_s: float, numbers: Sequence[int]) -> None:
        self.iterations.append((end_s, tuple(numbers)))


def summary(outcome: Outcome) -> list[Any]:
    lives = [
        (each.first_s, each.last_s, each.finished, each.preemptions, each.recomputed)
        for each in outcome.lives
    ]
    return [
        *lives,
        outcome.end_s,
        outcome.iterations,
        outcome.busy_s,
        outcome.waited_s,
        outcome.swapped_bytes,
    ]


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 50),
    rate=st.sampled_from((0.5, 3.0, 30.0)),
    max_batch=st.sampled_from((1, 3, 16)),
    kv_tokens=st.sampled_from((2_048, 2_500, 4_100)),
    make_room=st.sampled_from(ROOMS),
    prefill_tokens=st.sampled_from((None, 64)),
)
def test_skipping_decisions_changes_no_token_by_a_bit(
    policy: str, seed: int, count: int, rate: float, **limits: Any
) -> None:
    given_set_up, given_workload = set_up(**limits), random_workload(seed, count, rate)
    fast, slow = Told(), Told()
    skipped = simulate(given_set_up, policy, given_workload, tokens=fast)
    stepped = simulate(given_set_up, policy, given_workload, fast=False, tokens=slow)
    assert fast.iterations == slow.iterations
    assert summary(skipped) == summary(stepped)
    assert_complete(given_workload, slow, stepped)


def assert_complete(served: Workload, told: Told, outcome: Outcome) -> None:
    """Everybody got all tokens, at times that rise, and the engine was never in two places."""
    tokens = Counter(number for _, numbers in told.iterations for number in numbers)
    assert tokens == {i: each.output_tokens for i, each in enumerate(served.requests)}
    ends = [end for end, _ in told.iterations]
    assert ends == sorted(set(ends))
    assert outcome.unfinished == 0
    for life in outcome.lives:
        assert life.first_s is not None
        assert life.last_s is not None
        assert life.request.arrival_s < life.first_s <= life.last_s
    assert outcome.busy_s + outcome.waited_s <= outcome.end_s + 1e-6


def test_a_request_alone_takes_its_prefill_and_its_decodes() -> None:
    told = Told()
    outcome = simulate(set_up(), "fcfs", workload((5.0, 100, 3)), tokens=told)
    first = 5.0 + LATENCY.prefill_s(100)
    second = first + LATENCY.decode_s(1, 101)
    assert told.iterations == [
        (first, (0,)),
        (second, (0,)),
        (second + LATENCY.decode_s(1, 102), (0,)),
    ]
    assert outcome.end_s == told.iterations[-1][0]


def test_who_arrives_meanwhile_joins_the_next_iteration() -> None:
    told = Told()
    simulate(set_up(), "fcfs", workload((0.0, 100, 4), (0.03, 50, 1)), tokens=told)
    first, second, third = told.iterations[:3]
    assert (first[1], second[1], third[1]) == ((0,), (0,), (0, 1))
    mixed = LATENCY.iteration_s([(50, 0)], 1, 102)
    assert third[0] == second[0] + mixed


def test_the_batch_cap_holds() -> None:
    told = Told()
    simulate(set_up(max_batch=2), "fcfs", workload(*[(0.0, 10, 5)] * 5), tokens=told)
    assert max(len(numbers) for _, numbers in told.iterations) == 2


def test_the_drain_is_bounded_and_the_rest_unfinished() -> None:
    served = workload(*((index / 10, 200, 150) for index in range(100)))
    outcome = simulate(set_up(drain=0.1, max_batch=2), "fcfs", served)
    assert outcome.end_s == pytest.approx(served.span_s * 1.1)
    assert 0 < outcome.unfinished < 100
    unfinished = [life for life in outcome.lives if not life.finished]
    assert all(life.last_s is None or life.last_s <= outcome.end_s for life in unfinished)


def test_memory_that_is_short_is_made_and_counted() -> None:
    served = workload(*[(0.0, 400, 300)] * 6)  # any three have room at first, not at the end
    outcome = simulate(set_up(kv_tokens=1_600), "fcfs", served)
    assert sum(life.preemptions for life in outcome.lives) > 0
    assert sum(life.recomputed for life in outcome.lives) > 0
    assert outcome.swapped_bytes == 0
    swapped = simulate(set_up(kv_tokens=1_600, make_room=MakeRoom.REACTIVE), "fcfs", served)
    assert swapped.swapped_bytes > 0
    assert swapped.waited_s == pytest.approx(swapped.swapped_bytes / 25e9)


def test_a_slower_link_makes_reactive_swapping_slower() -> None:
    served = random_workload(3, 60, 20.0)
    times = [
        simulate(
            set_up(kv_tokens=1_000, make_room=MakeRoom.REACTIVE, link_bytes_per_s=speed),
            "mlfq",
            served,
        ).waited_s
        for speed in (25e9, 5e9)
    ]
    assert 0 < times[0] < times[1]


def test_capacity_is_requests_over_the_makespan() -> None:
    served = workload(*((float(index), 50, 20) for index in range(40)))
    found = capacity(set_up(drain=0.1), served)
    outcome = simulate(set_up(), "fcfs", served.at_once())
    assert found == pytest.approx(40 / outcome.end_s)


def test_reserving_the_longest_sequence_leaves_room_for_few() -> None:
    told = Told()
    simulate(set_up(kv_tokens=7_000), "orca", workload(*[(0.0, 50, 30)] * 8), tokens=told)
    assert max(len(numbers) for _, numbers in told.iterations) == 3


def test_whole_batches_begin_together() -> None:
    told = Told()
    served = workload((0.0, 50, 30), (0.01, 50, 3), (0.02, 50, 3))
    simulate(set_up(), "fastertransformer", served, tokens=told)
    assert [numbers for _, numbers in told.iterations[:30]] == [(0,)] * 30
    assert told.iterations[30][1] == (1, 2)


def test_chunks_let_others_decode_meanwhile() -> None:
    served = workload((0.0, 10, 40), (0.05, 1500, 2))
    pauses = {}
    for policy in ("fcfs", "chunked"):
        told = Told()
        simulate(set_up(), policy, served, tokens=told)
        ends = [end for end, numbers in told.iterations if 0 in numbers]
        pauses[policy] = max(later - sooner for sooner, later in pairwise(ends))
    assert pauses["chunked"] < 0.6 * pauses["fcfs"]
