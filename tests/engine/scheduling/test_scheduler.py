"""Whatever the policy, the limits and the order of events: blocks, places and progress."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scheduling.limits import Limits, MakeRoom
from engine.scheduling.registry import POLICIES

EXAMPLES = 50  # thousands were tried when the scheduler was written

names = st.sampled_from(sorted(POLICIES))
some_limits = st.builds(
    Limits,
    max_batch=st.integers(1, 4),
    blocks=st.integers(3, 14),
    block_tokens=st.integers(1, 4),
    host_blocks=st.sampled_from([0, 3, 20, 100]),
    prefill_tokens=st.sampled_from([None, None, 1, 3, 8]),
    make_room=st.sampled_from(MakeRoom),
    idle_blocks=st.integers(0, 4),
)
some_jobs = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=8)
choices = st.lists(st.integers(0, 1000), min_size=1, max_size=40)


class Chooser:
    """Which event is next: as the list says, over and over."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = numbers
        self._at = 0

    def __call__(self, count: int) -> int:
        self._at += 1
        return self._numbers[self._at % len(self._numbers)] % count


def fitting(job: Any, sizes: list[tuple[int, int]], limits: Limits) -> list[Any]:
    """Jobs of these sizes, cut so that each fits alone."""
    most = limits.blocks * limits.block_tokens
    return [
        job(
            number,
            min(prompt, most - 1),
            min(tokens, most - min(prompt, most - 1)),
            urgency=number % 3,
        )
        for number, (prompt, tokens) in enumerate(sizes)
    ]


@settings(deadline=None, max_examples=EXAMPLES)
@given(
    name=names,
    limits=some_limits,
    sizes=some_jobs,
    late=st.integers(0, 8),
    stages=st.integers(1, 3),
    numbers=choices,
)
def test_all_jobs_end_whatever_the_order_of_events(
    engine_double: Any,
    job: Any,
    make: Any,
    name: str,
    limits: Limits,
    sizes: list[tuple[int, int]],
    late: int,
    stages: int,
    numbers: list[int],
) -> None:
    """The double checks blocks, places and batches after every event. Same events, same log."""
    logs = []
    for _ in range(2):
        engine = engine_double(make(name), limits, stages=stages)
        choose = Chooser(numbers)
        jobs = fitting(job, sizes, limits)
        engine.add(jobs[late:])
        for each in jobs[:late]:
            engine.turn(choose)
            engine.add([each])
        engine.drain(choose)
        assert sorted(engine.finished) == list(range(len(jobs)))
        assert all(each.generated == each.max_tokens for each in jobs)
        assert engine.scheduler.pages.free == limits.blocks
        assert engine.scheduler.pages.host_free == limits.host_blocks
        logs.append(engine.log)
    assert logs[0] == logs[1]


@settings(deadline=None, max_examples=EXAMPLES)
@given(
    name=names,
    limits=some_limits,
    sizes=some_jobs,
    stages=st.integers(1, 3),
    numbers=choices,
    turns=choices,
)
def test_withdrawn_jobs_free_everything(
    engine_double: Any,
    job: Any,
    make: Any,
    name: str,
    limits: Limits,
    sizes: list[tuple[int, int]],
    stages: int,
    numbers: list[int],
    turns: list[int],
) -> None:
    """At once, or when what they are in is over."""
    engine = engine_double(make(name), limits, stages=stages)
    jobs = fitting(job, sizes, limits)
    engine.add(jobs)
    choose = Chooser(numbers)
    for each, count in zip(jobs, turns, strict=False):
        for _ in range(count % 7):
            engine.turn(choose)
        engine.withdraw(each.number)
    if len(turns) < len(jobs):
        engine.drain(choose)
    while engine.running:
        engine.end()
    while engine.moving:
        engine.move()
    assert len(engine.scheduler) == 0
    assert engine.scheduler.pages.free == limits.blocks
    assert engine.scheduler.pages.host_free == limits.host_blocks
