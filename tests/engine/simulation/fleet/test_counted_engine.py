"""Counting decodes: every time is the scheduler's to the bit, or it says that it cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.simulation.fleet.engines import Order, make_engine
from engine.simulation.fleet.set_up import loongserve_set_up
from engine.simulation.serve.request import Request, Workload
from engine.simulation.serve.workload import find_workload

if TYPE_CHECKING:
    from engine.simulation.serve.life import Outcome

SET_UP = loongserve_set_up()


def drawn(seed: int, count: int, rate: float) -> Workload:
    rng = np.random.default_rng(seed)
    prompts = np.exp(rng.uniform(0, np.log(3_000), count)).astype(int).tolist()
    outputs = np.exp(rng.uniform(0, np.log(100), count)).astype(int).tolist()
    times = rng.exponential(1 / rate, count).cumsum().tolist()
    return Workload(
        name="drawn",
        requests=tuple(
            Request(arrival_s=time, prompt_tokens=prompt, output_tokens=output)
            for time, prompt, output in zip(times, prompts, outputs, strict=True)
        ),
    )


def summary(outcome: Outcome) -> list[object]:
    lives = [
        (each.first_s, each.last_s, each.finished, each.preemptions, each.recomputed)
        for each in outcome.lives
    ]
    return [*lives, outcome.end_s, outcome.iterations, outcome.busy_s]


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 40),
    rate=st.sampled_from((0.5, 5.0, 50.0)),
    order=st.sampled_from(Order),
    chunk=st.sampled_from((None, 64, 512)),
    kv_tokens=st.sampled_from((3_200, 4_000, 8_000, 20_000)),
    max_batch=st.sampled_from((8, 1_000)),
    computed=st.booleans(),
)
def test_every_time_is_the_schedulers_or_it_says_so(
    seed: int,
    count: int,
    rate: float,
    order: Order,
    chunk: int | None,
    kv_tokens: int,
    max_batch: int,
    computed: bool,
) -> None:
    set_up = replace(SET_UP, kv_tokens=kv_tokens, max_batch=max_batch)
    served = drawn(seed, count, rate)
    found = {
        exact: make_engine(
            set_up,
            SET_UP.whole,
            served,
            instances=1,
            order=order,
            chunk=chunk,
            computed=computed and order is Order.FCFS,
            exact=exact,
        )
        for exact in (False, True)
    }
    counted, walked = found[False].run(), found[True].run()
    if order is Order.FCFS and max_batch == 1_000:
        assert not found[False].short, "it can tell what happens where memory is short"
    if not found[False].short:
        assert summary(counted) == summary(walked)


def test_it_is_not_short_where_memory_suffices() -> None:
    for order in Order:
        for name, rate in (("sharegpt-like", 30.0), ("mixed", 0.2)):
            served = find_workload(name, rate=rate, requests=120, seed=2)
            engine = make_engine(SET_UP, SET_UP.whole, served, instances=4, order=order, chunk=2048)
            assert engine.run().unfinished == 0
            assert not engine.short


def test_it_is_short_where_a_batch_is_full() -> None:
    served = drawn(0, count=30, rate=50.0)
    engine = make_engine(replace(SET_UP, max_batch=4), SET_UP.whole, served, instances=1)
    engine.run()
    assert engine.short
