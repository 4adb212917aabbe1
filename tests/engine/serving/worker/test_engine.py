"""Greedy output equals transformers', under every policy and however room is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the engine extra")
pytest.importorskip("transformers", reason="the oracle is not installed")

from engine.scheduling.limits import Limits, MakeRoom
from engine.scheduling.registry import LIVE_POLICIES
from engine.serving.request import FinishReason, GenerationRequest
from engine.serving.sampling.parameters import SamplingParameters

if TYPE_CHECKING:
    from engine.scheduling.iteration import Iteration

TIE = 1e-4
GREEDY = SamplingParameters(temperature=0.0)


def tight(make_room: MakeRoom) -> Limits:
    """Three at once, and room for about two of the longest."""
    return Limits(
        max_batch=3,
        blocks=34,
        block_tokens=4,
        host_blocks=0 if make_room is MakeRoom.RECOMPUTE else 40,
        prefill_tokens=16,
        make_room=make_room,
        idle_blocks=2,
    )


def requests_of(oracle: Any) -> list[GenerationRequest]:
    """Each prompt once, and once more to be withdrawn."""
    return [
        GenerationRequest(
            number=number,
            id="",
            prompt=tuple(oracle.prompts[number % len(oracle.prompts)]),
            max_tokens=len(oracle.outputs[0]),
            parameters=GREEDY,
            urgency=number % 3,
        )
        for number in range(2 * len(oracle.prompts))
    ]


def assert_equal(oracle: Any, given: dict[int, list[int]], numbers: range) -> int:
    """How many differ, where transformers in float64 is undecided itself; else fail."""
    ties = 0
    for number in numbers:
        got, expected = given[number], oracle.outputs[number]
        if got == expected:
            continue
        place = next(at for at, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b)
        assert oracle.gap(number, place) < TIE, (number, place)
        ties += 1
    return ties


@pytest.mark.parametrize("make_room", list(MakeRoom))
@pytest.mark.parametrize("policy", LIVE_POLICIES)
@settings(
    max_examples=2,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 10**6))
def test_greedy_equals_transformers(
    oracle: Any, driver: Any, policy: str, make_room: MakeRoom, seed: int
) -> None:
    driven = driver(oracle.model, policy, tight(make_room), seed)
    half = len(oracle.prompts)
    driven.run(requests_of(oracle), withdrawn=frozenset(range(half, 2 * half)))
    ties = assert_equal(oracle, driven.given, range(half))
    print(f"divergences at ties: {ties} of {half}")
    load = driven.engine.load()
    assert driven.runner.cache.used == driven.runner.cache.host_used == 0
    assert (load.kv_usage, load.host_usage, load.running, load.waiting) == (0, 0, 0, 0)


def test_room_is_made_in_each_way(oracle: Any, driver: Any) -> None:
    seen = {}
    for make_room in MakeRoom:
        driven = driver(oracle.model, "mlfq", tight(make_room), 1)
        driven.run(requests_of(oracle), withdrawn=frozenset())
        seen[make_room] = driven.engine.load()
    assert all(load.preemptions for load in seen.values())
    assert seen[MakeRoom.RECOMPUTE].recomputations
    assert seen[MakeRoom.REACTIVE].offloads and seen[MakeRoom.REACTIVE].uploads
    assert seen[MakeRoom.PROACTIVE].offloads and seen[MakeRoom.PROACTIVE].uploads
    assert all(load.shared_tokens for load in seen.values())


@pytest.mark.parametrize("policy", LIVE_POLICIES)
def test_equal_ticks_give_equal_decisions(
    oracle: Any, driver: Any, engine_of: Any, policy: str
) -> None:
    limits = tight(MakeRoom.PROACTIVE)
    driven = driver(oracle.model, policy, limits, 7)
    driven.run(requests_of(oracle), withdrawn=frozenset({7, 9}))
    again, runner = engine_of(oracle.model, policy, limits)
    for tick, expected in zip(driven.ticks, driven.iterations, strict=True):
        _, iteration = again.step(tick)
        runner.cache.move(iteration)
        runner.compute(iteration.work, again.texts(iteration.work))
        assert told(iteration) == told(expected)


def told(iteration: Iteration) -> Any:
    """Without the jobs' later state."""
    return (
        [(each.job.number, each.first, each.tokens, each.gives) for each in iteration.work],
        [[job.number for job in jobs] for jobs in (iteration.drop, iteration.offload)],
        [job.number for job in iteration.upload],
        iteration.waits,
    )


def test_who_comes_and_goes_at_once_leaves_nothing(oracle: Any, driver: Any) -> None:
    driven = driver(oracle.model, "fcfs", tight(MakeRoom.RECOMPUTE), 0)
    driven.step(requests_of(oracle)[:1], [0])
    driven.step([], [])
    assert not driven.given
    assert driven.engine.load().waiting == driven.runner.cache.used == 0


def test_a_resumed_request_goes_on_where_it_was(oracle: Any, driver: Any) -> None:
    drawn = SamplingParameters(temperature=1.5, seed=11)

    def request(number: int, output: tuple[int, ...] = ()) -> GenerationRequest:
        prompt = tuple(oracle.prompts[0])
        return GenerationRequest(
            number=number, id="", prompt=prompt, max_tokens=12, parameters=drawn, output=output
        )

    whole = driver(oracle.model, "fcfs", tight(MakeRoom.RECOMPUTE), 0)
    whole.run([request(0)], withdrawn=frozenset())
    first = whole.given[0]
    another = driver(oracle.model, "fcfs", tight(MakeRoom.RECOMPUTE), 0)
    another.given[1] = list(first[:5])
    another.run([request(1, tuple(first[:5]))], withdrawn=frozenset())
    assert another.given[1] == first
    assert another.finished[1] is FinishReason.LENGTH
