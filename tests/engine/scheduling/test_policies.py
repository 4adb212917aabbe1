"""Each policy's order, by itself."""

from __future__ import annotations

from typing import Any

import pytest

from collectors.errors import UsageError
from engine.scheduling.fcfs import FirstComeFirstServed
from engine.scheduling.gittins import GittinsIndex
from engine.scheduling.mlfq import MultiLevelFeedbackQueue
from engine.scheduling.oracle import ShortestRemaining
from engine.scheduling.priority import Priority
from engine.scheduling.registry import POLICIES, Knowledge, make_policy
from engine.scheduling.skip_join import SkipJoin


def order(policy: Any, now: float = 0.0) -> list[int]:
    """The numbers."""
    return [job.number for job in policy.order(now)]


def give(policy: Any, job: Any, now: float, *, seconds: float = 1.0) -> None:
    """The job runs, and gives a token."""
    job.cached, job.generated = job.known, job.generated + 1
    policy.ran([job], seconds, now)


def test_first_come_first_served_is_by_arrival(job: Any) -> None:
    policy = FirstComeFirstServed()
    for number, arrived_s in enumerate([2.0, 1.0, 1.0, 0.0]):
        policy.arrive(job(number, arrived_s=arrived_s), 2.0)
    assert order(policy) == [3, 1, 2, 0]


def test_the_more_urgent_goes_before_those_that_run(job: Any) -> None:
    policy = Priority()
    running, newcomer = job(0, urgency=1), job(1, arrived_s=5.0, urgency=0)
    policy.arrive(running, 0.0)
    give(policy, running, 1.0)
    policy.arrive(newcomer, 5.0)
    assert order(policy) == [1, 0]


def test_a_long_prompt_joins_a_lower_queue(job: Any, profile: Any) -> None:
    """Quanta are 1, 2, 4, 8 ... s; prefills of 4, 12 and 28 tokens take 2, 4 and 8 s."""
    policy = SkipJoin(profile)
    jobs = [job(0, 28), job(1, 12), job(2, 4), job(3, 13)]
    for each in jobs:
        policy.arrive(each, 0.0)
    assert [policy.queue(each) for each in jobs] == [3, 2, 1, 3]
    assert order(policy) == [2, 1, 0, 3]


def test_what_the_prefix_cache_has_counts_for_nothing(job: Any, profile: Any) -> None:
    policy = SkipJoin(profile)
    long = job(0, 28)
    long.shared = 24
    policy.arrive(long, 0.0)
    assert policy.queue(long) == 1


def test_plain_queues_take_every_job_first(job: Any, profile: Any) -> None:
    policy = MultiLevelFeedbackQueue(profile)
    policy.arrive(job(0, 1000), 0.0)
    policy.arrive(job(1, 1), 0.0)
    assert order(policy) == [0, 1]


@pytest.mark.parametrize("kind", [MultiLevelFeedbackQueue, SkipJoin])
def test_a_used_quantum_demotes_to_the_back(job: Any, profile: Any, kind: Any) -> None:
    policy = kind(profile, promote_after_s=100.0)
    first, second = job(0, 4, 9), job(1, 4, 9)
    for each in (first, second):
        policy.arrive(each, 0.0)
        give(policy, each, 2.0, seconds=2.0)
    level = policy.queue(first)
    assert (level, order(policy, 2.0)) == ({"mlfq": 1, "skip-join-mlfq": 2}[policy.name], [0, 1])
    for turn in range(2**level):  # the whole quantum, in tokens of a second
        assert order(policy, 3.0 + turn) == [0, 1]
        give(policy, first, 4.0 + turn)
    assert policy.queue(first) == level + 1
    assert order(policy, 10.0) == [1, 0]


def test_a_demotion_skips_queues_that_do_not_hold_the_next_iteration(job: Any) -> None:
    class Slow:
        """A decode takes a second for each token before it."""

        def prefill_s(self, tokens: int, cached: int = 0) -> float:
            return 1.0

        def decode_s(self, batch: int, context_tokens: int) -> float:
            return float(context_tokens)

    policy = SkipJoin(Slow())
    long = job(0, 20, 9)
    policy.arrive(long, 0.0)
    assert policy.queue(long) == 0
    give(policy, long, 1.0)
    assert policy.queue(long) == 5  # 21 s: less than 32, more than 16


def test_a_prefill_in_chunks_is_not_demoted_before_it_gives_a_token(job: Any, profile: Any) -> None:
    policy = MultiLevelFeedbackQueue(profile)
    long = job(0, 8, 9)
    policy.arrive(long, 0.0)
    long.cached = 4
    policy.ran([long], 5.0, 5.0)
    assert policy.queue(long) == 0
    give(policy, long, 6.0)
    assert policy.queue(long) == 1


def test_who_has_waited_for_long_is_promoted(job: Any, profile: Any) -> None:
    policy = SkipJoin(profile, promote_after_s=10.0)
    long, short = job(0, 28), job(1, 1)
    policy.arrive(long, 0.0)
    policy.arrive(short, 5.0)
    assert order(policy, 9.9) == [1, 0]
    assert (order(policy, 10.0), policy.queue(long)) == ([0, 1], 0)


def test_who_runs_does_not_wait(job: Any, profile: Any) -> None:
    policy = SkipJoin(profile, promote_after_s=10.0)
    long = job(0, 28)
    policy.arrive(long, 0.0)
    long.in_flight = True
    policy.order(12.0)
    assert policy.queue(long) == 3
    give(policy, long, 15.0, seconds=3.0)
    long.in_flight = False
    policy.order(24.0)
    assert policy.queue(long) == 3
    policy.order(25.0)
    assert policy.queue(long) == 0


def test_the_time_until_a_job_is_scheduled(job: Any, profile: Any) -> None:
    """ENST by hand, at 1 s and a batch of two. Quanta 1, 2, 4, 8; who is where, and has used:
    a: Q2, 0.5; b: Q3, 0; c: Q4, 0; d: Q4, 0.

    Before c falls nobody of higher priority is left above Q4's end: a uses 1.5 + 4 + 8, b 4 + 8;
    before d, behind c in the same queue, c's 8 too. Promotion is 20 s after arrival.
    """
    policy = SkipJoin(profile, promote_after_s=20.0)
    a, b, c, d = job(0, 4), job(1, 12), job(2, 28), job(3, 28)
    for each in (a, b, c, d):
        policy.arrive(each, 0.0)
    a.cached = 4
    a.generated = 1
    policy.ran([a], 0.5, 1.0)
    expected = [0.0, (1.5 + 4) / 2, (13.5 + 12) / 2, (13.5 + 12 + 8) / 2]
    assert [policy.next_scheduled_s(each, 1.0, 2) for each in (a, b, c, d)] == expected
    assert policy.next_scheduled_s(d, 18.0, 2) == 2.0
    assert policy.next_scheduled_s(d, 30.0, 2) == 0.0


def test_the_shortest_remaining_runs_first(job: Any, make: Any) -> None:
    policy = make(ShortestRemaining.name)
    long, short, wordy = job(0, 4, 9), job(1, 4, 2), job(2, 40, 2)
    for each in (long, short, wordy):
        policy.arrive(each, 0.0)
    assert order(policy) == [1, 0, 2]
    for _ in range(8):
        give(policy, long, 1.0)
    assert order(policy) == [0, 1, 2]


def brute_force(counts: dict[int, int], attained: int, first: float) -> float:
    """The definition."""
    left = {length: count for length, count in counts.items() if length > attained}
    return min(
        sum((min(length, goal) - attained + first) * count for length, count in left.items())
        / sum(count for length, count in left.items() if length <= goal)
        for goal in left
    )


def test_the_index_is_as_defined() -> None:
    counts = {1: 5, 3: 1, 10: 4, 11: 1, 50: 3}
    index = GittinsIndex(counts)
    for attained in range(50):
        for first in (0.0, 7.5):
            assert index.price(attained, first) == pytest.approx(
                brute_force(counts, attained, first)
            )
    assert index.price(50) == float("inf")


def test_who_probably_ends_soon_runs_first(job: Any, profile: Any) -> None:
    """Half of the jobs give 8 tokens, half 80: who has given more than 8 is a long one."""
    knowledge = Knowledge(profile=profile, output_lengths=[8, 80])
    policy = make_policy("gittins-oracle", knowledge)
    old, fresh = job(0, 4, 80), job(1, 4, 80, arrived_s=9.0)
    policy.arrive(old, 0.0)
    for _ in range(7):
        give(policy, old, 1.0)
    policy.arrive(fresh, 9.0)
    assert order(policy) == [0, 1]
    give(policy, old, 10.0)
    assert order(policy) == [1, 0]
    for _ in range(70):
        give(policy, old, 11.0)
    assert order(policy) == [0, 1]


def test_oracles_need_one(profile: Any) -> None:
    for name in POLICIES:
        if name.endswith("-oracle"):
            with pytest.raises(UsageError, match="how long answers will be"):
                make_policy(name, Knowledge(profile=profile))
        else:
            assert make_policy(name, Knowledge(profile=profile)).name == name
    with pytest.raises(UsageError, match="no policy 'lottery'"):
        make_policy("lottery", Knowledge(profile=profile))
