"""Short prompts first: in which order, and that skipped decisions would have been the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.profiles.latency import latency_of
from engine.scheduling.limits import Limits
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.short_first import ShortFirst
from engine.simulation.serve.request import Request, Workload
from engine.simulation.serve.simulator import Simulator

if TYPE_CHECKING:
    from engine.simulation.serve.life import Outcome


def test_those_that_answer_go_on_and_the_others_come_by_what_is_left(job: Any) -> None:
    policy = ShortFirst()
    long, short, answering = job(0, prompt=100), job(1, prompt=30), job(2, prompt=500)
    for each in (long, short, answering):
        policy.arrive(each, 0.0)
    assert [each.number for each in policy.order(0.0)] == [1, 0, 2]
    answering.cached, answering.generated = 500, 1
    long.cached = 80
    policy.ran([answering, long], 1.0, 1.0)
    assert [each.number for each in policy.order(1.0)] == [2, 0, 1]
    assert policy.rank(answering) < policy.rank(long) < policy.rank(short)
    policy.leave(answering, 2.0, finished=True)
    assert [each.number for each in policy.order(2.0)] == [0, 1]


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(
        st.tuples(st.floats(0, 10), st.integers(1, 300), st.integers(1, 60)),
        min_size=1,
        max_size=15,
    ),
    blocks=st.integers(25, 60),
    max_batch=st.integers(1, 6),
    prefill_tokens=st.sampled_from([None, 40]),
)
def test_all_end_and_skipping_decisions_changes_no_time(
    sizes: list[tuple[float, int, int]], blocks: int, **limits: Any
) -> None:
    """Also where memory is so short that prompts are put out between their chunks."""
    requests = tuple(
        Request(arrival_s=arrival, prompt_tokens=prompt, output_tokens=output)
        for arrival, prompt, output in sorted(sizes)
    )

    def run(*, fast: bool) -> Outcome:
        return Simulator(
            Scheduler(ShortFirst(), Limits(blocks=blocks, **limits)),
            latency_of((0.02, 1e-3, 1e-6), (0.02, 1e-5, 1e-3)),
            Workload(name="given", requests=requests),
            bytes_per_token=1,
            link_bytes_per_s=1.0,
            fast=fast,
        ).run()

    fast, slow = run(fast=True), run(fast=False)
    assert fast.unfinished == 0
    assert [(each.first_s, each.last_s) for each in fast.lives] == [
        (each.first_s, each.last_s) for each in slow.lives
    ]
    assert fast.iterations == slow.iterations
