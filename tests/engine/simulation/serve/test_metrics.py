"""Metrics of outcomes that are written down here."""

from __future__ import annotations

import pytest

from engine.scheduling.job import Job
from engine.simulation.serve.life import Life, Outcome
from engine.simulation.serve.link import Stream
from engine.simulation.serve.metrics import measure
from engine.simulation.serve.request import Request


def life(arrival: float, prompt: int, output: int, first: float | None, last: float | None) -> Life:
    request = Request(arrival_s=arrival, prompt_tokens=prompt, output_tokens=output)
    return Life(request=request, first_s=first, last_s=last, finished=last is not None)


def outcome(lives: list[Life], end_s: float) -> Outcome:
    return Outcome(
        policy="fcfs",
        lives=lives,
        end_s=end_s,
        iterations=1,
        busy_s=5.0,
        waited_s=1.0,
        swapped_bytes=7,
    )


def test_times_of_finished_requests() -> None:
    found = measure(outcome([life(0, 10, 11, 1.0, 6.0), life(2, 20, 2, 3.0, 4.0)], 10.0))
    assert found.all.jct is not None
    assert (found.all.jct.mean, found.all.jct.p50, found.all.jct.count) == (4.0, 4.0, 2)
    assert found.all.ttft is not None
    assert found.all.ttft.mean == 1.0
    assert found.all.tpot is not None
    assert found.all.tpot.mean == pytest.approx((0.5 + 1.0) / 2)
    assert found.all.jct_per_token is not None
    assert found.all.jct_per_token.count == 1  # an output of 2 tokens says nothing
    assert found.all.jct_per_token.mean == pytest.approx(6 / 11)
    assert (found.requests_per_s, found.output_tokens_per_s) == (0.2, 1.3)
    assert (found.busy, found.waited, found.swapped_bytes) == (0.5, 0.1, 7)


def test_unfinished_requests_count_until_the_end() -> None:
    found = measure(outcome([life(0, 1, 8, 1.0, 2.0), life(1, 1, 8, None, None)], 9.0))
    assert found.unfinished == 1
    assert found.all.jct is not None
    assert found.all.jct.mean == (2 + 8) / 2
    assert found.all.ttft is not None
    assert found.all.ttft.mean == (1 + 8) / 2


def test_the_longest_tenth_of_the_prompts_is_told_apart() -> None:
    lives = [life(0, 100 + index, 8, 1.0, 2.0) for index in range(19)]
    lives.insert(4, life(0, 5000, 8, 3.0, 4.0))
    lives.append(life(0, 4000, 8, 3.0, 4.0))
    found = measure(outcome(lives, 4.0))
    assert found.short.jct is not None
    assert found.long.jct is not None
    assert (found.short.jct.count, found.short.jct.p99) == (19, 2.0)
    assert (found.long.jct.count, found.long.jct.mean) == (2, 4.0)


def test_percentiles_are_those_of_the_requests() -> None:
    found = measure(outcome([life(0, 1, 8, 1.0, float(n)) for n in range(1, 102)], 200.0))
    assert found.all.jct is not None
    assert (found.all.jct.p50, found.all.jct.p95, found.all.jct.p99) == (51.0, 96.0, 100.0)


def test_one_short_output_has_no_time_a_token() -> None:
    found = measure(outcome([life(0, 1, 1, 1.0, 1.0)], 1.0))
    assert found.all.jct_per_token is None
    assert found.all.tpot is None
    assert found.long.jct is None


def test_a_stream_moves_one_job_after_the_other() -> None:
    first, second = (
        Job(number=number, arrived_s=0, prompt_tokens=100, max_tokens=1, cached=100)
        for number in range(2)
    )
    stream = Stream(bytes_per_s=1000.0, bytes_per_token=10)
    assert stream.next_s == float("inf")
    stream.begin([first, second], 5.0)
    assert (stream.next_s, stream.free_s, stream.bytes_moved) == (6.0, 7.0, 2000)
    assert stream.done(5.9) == []
    assert stream.done(7.0) == [first, second]
    stream.begin([first], 20.0)
    assert stream.next_s == 21.0
