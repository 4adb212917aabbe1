"""First come, first served: order, capacity and completion, over random histories."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.serving.policies.fcfs import FirstComeFirstServed
from engine.serving.policies.policy import Capacity, Iteration, Job

KV_TOKENS = 40
histories = st.lists(
    st.tuples(
        st.integers(1, 20),  # prompt
        st.integers(1, 20),  # output
        st.integers(0, 12),  # arrives before this iteration
        st.none() | st.integers(0, 15),  # is cancelled before this one
    ),
    max_size=30,
)


@given(histories, st.integers(1, 5))
def test_keeps_the_caps_and_the_order_and_starves_nobody(
    history: list[tuple[int, int, int, int | None]], max_batch: int
) -> None:
    policy = FirstComeFirstServed(Capacity(max_batch=max_batch, kv_tokens=KV_TOKENS))
    waiting: list[int] = []
    left: dict[int, int] = {}
    started: list[int] = []
    for now in range(1000):
        for number, (prompt, output, arrival, cancelled) in enumerate(history):
            if arrival == now:
                policy.arrived(Job(number=number, prompt_tokens=prompt, max_tokens=output), now)
                waiting.append(number)
            if cancelled == now and (number in waiting or number in left):
                policy.cancelled(number, now)
                left.pop(number, None)
                waiting = [other for other in waiting if other != number]
        iteration = policy.schedule(now)
        assert set(iteration.decode) == set(left), "continuous batching: all that run, go on"
        assert list(iteration.prefill) == waiting[: len(iteration.prefill)], "no overtaking"
        waiting = waiting[len(iteration.prefill) :]
        started += iteration.prefill
        left |= {number: history[number][1] for number in iteration.prefill}
        assert len(left) <= max_batch
        assert sum(history[n][0] + history[n][1] for n in left) <= KV_TOKENS
        if waiting and len(left) < max_batch:
            used = sum(history[n][0] + history[n][1] for n in left)
            assert used + sum(history[waiting[0]][:2]) > KV_TOKENS, "room is not left unused"
        for number in [*iteration.decode, *iteration.prefill]:
            policy.token(number, now)
            left[number] -= 1
            if not left[number]:
                del left[number]
                policy.finished(number, now)
        if now > 15 and not (waiting or left):
            break
    assert not waiting
    assert not left
    assert policy.schedule(1001) == Iteration()
