"""The engine that does not exist serves as FCFS does in one that is simulated token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engine.profiles.latency import latency_of
from engine.scheduling.job import Job
from engine.scheduling.limits import Limits, MakeRoom
from engine.scheduling.virtual_fcfs import VirtualFcfs
from engine.simulation.serve.comparison import capacity, simulate
from engine.simulation.serve.costs import ServingCosts
from engine.simulation.serve.set_up import SetUp
from engine.simulation.serve.workload import find_workload

if TYPE_CHECKING:
    from engine.simulation.serve.request import Request

LATENCY = latency_of((0.018, 1e-4, 1e-8), (0.02, 6e-7, 4e-5), (0.02, 6e-7, 4e-5), 10_000)
SET_UP = SetUp(
    costs=ServingCosts(model="m", tp=1, latency=LATENCY, kv_bytes_per_token=None, source="here")
)


def job(number: int, request: Request) -> Job:
    return Job(
        number=number,
        arrived_s=request.arrival_s,
        prompt_tokens=request.prompt_tokens,
        max_tokens=request.output_tokens,
    )


@pytest.mark.parametrize("max_batch", [16, 64])
def test_it_ends_jobs_when_fcfs_does(max_batch: int) -> None:
    """With 64 sequences memory is what limits the batch."""
    set_up = replace(SET_UP, max_batch=max_batch)
    rate = capacity(set_up, find_workload("sharegpt-like", requests=600))
    workload = find_workload("sharegpt-like", requests=600, rate=1.05 * rate)
    lives = simulate(replace(set_up, drain=None), "fcfs", workload).lives
    limits = set_up.limits(MakeRoom.RECOMPUTE)
    virtual = VirtualFcfs(LATENCY, limits, lambda each: each.max_tokens)
    ended = []
    for number, request in enumerate(workload.requests):
        ended += virtual.advance(request.arrival_s)
        virtual.arrive(job(number, request))
    ended += virtual.advance(1e6)
    assert len(ended) == len(lives)
    took = np.array([end_s - each.arrived_s for each, end_s in ended])
    truly = np.array([(lives[each.number].last_s or 0.0) - each.arrived_s for each, _ in ended])
    assert np.percentile(took, 99) == pytest.approx(np.percentile(truly, 99), rel=0.1)
    assert np.median(took / truly) == pytest.approx(1.0, abs=0.1)


def test_what_was_withdrawn_costs_nothing() -> None:
    virtual = VirtualFcfs(LATENCY, Limits(max_batch=1, blocks=100), lambda each: each.max_tokens)
    for number, tokens in enumerate((1, 0, 1)):
        virtual.arrive(Job(number=number, arrived_s=0.0, prompt_tokens=500, max_tokens=tokens))
    ended = virtual.advance(1.0)
    assert [each.number for each, _ in ended] == [0, 2]
    assert ended[1][1] == pytest.approx(2 * ended[0][1])


def test_it_is_empty_when_the_real_engine_is() -> None:
    virtual = VirtualFcfs(LATENCY, Limits(max_batch=1, blocks=100), lambda each: each.max_tokens)
    for number in range(3):
        virtual.arrive(Job(number=number, arrived_s=0.0, prompt_tokens=5, max_tokens=1_000))
    assert virtual.advance(1.0) == []
    assert [each.number for each in virtual.finish(2.0)] == [0, 1, 2]
    assert virtual.advance(1e6) == []
