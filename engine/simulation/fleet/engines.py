"""Engines that baselines are made of: a scheduler for each, as a live engine has it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from engine.scheduling.fcfs import FirstComeFirstServed
from engine.scheduling.limits import Limits
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.short_first import ShortFirst
from engine.simulation.fleet.counted_engine import CountedEngine
from engine.simulation.serve.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.profiles.latency import Latency
    from engine.scheduling.job import Job
    from engine.simulation.fleet.set_up import FleetSetUp
    from engine.simulation.serve.life import Life, Outcome
    from engine.simulation.serve.request import Request, Workload

_NO_SWAPPING_BYTES_PER_S = 1.0  # nothing is moved: what was put out is computed again


class Order(StrEnum):
    """Whose prompt is computed first."""

    FCFS = FirstComeFirstServed.name
    SHORT = ShortFirst.name


class Engine(Protocol):
    """See :class:`~engine.simulation.serve.simulator.Simulator`.

    Attributes:
        short: whether it could not go on; what it says is then of no use.
    """

    short: bool

    def offer(self, request: Request) -> Life: ...

    def advance(self, until_s: float) -> None: ...

    def run(self) -> Outcome: ...


class _Walked(Simulator):
    """It walks every decision, and can always go on."""

    short = False


class _AllComputed:
    """Keys and values of whatever comes have come with it."""

    def known(self, job: Job) -> int:
        return job.known

    def share(self, job: Job) -> int:
        return job.known


def fitting_tokens(set_up: FleetSetUp, instances: int) -> int:
    """How long a request may be on an engine that has the memory of so many instances."""
    return instances * set_up.kv_tokens


def make_engine(
    set_up: FleetSetUp,
    latency: Latency,
    workload: Workload,
    *,
    instances: int,
    order: Order = Order.FCFS,
    chunk: int | None = None,
    computed: bool = False,
    exact: bool = False,
) -> Engine:
    """One engine with the memory, and the cap on batches, of so many instances.

    Args:
        workload: none of its requests is longer than :func:`fitting_tokens`.
        chunk: tokens of prompts in an iteration; None: prompts are computed whole.
        computed: prompts come with their keys and values, and in order.
        exact: decisions are the scheduler's own, whatever happens; else it may be short.
    """
    assert order is Order.FCFS or not computed, "what is left of a prompt says nothing then"
    limits = Limits(
        max_batch=set_up.max_batch * instances,
        blocks=fitting_tokens(set_up, instances),
        block_tokens=1,
        prefill_tokens=chunk,
    )
    if not exact:
        return CountedEngine(
            latency, limits, workload, short_first=order is Order.SHORT, computed=computed
        )
    policy = FirstComeFirstServed() if order is Order.FCFS else ShortFirst()
    return _Walked(
        Scheduler(policy, limits, _AllComputed() if computed else None),
        latency,
        workload,
        bytes_per_token=set_up.base.kv_bytes_per_token,
        link_bytes_per_s=_NO_SWAPPING_BYTES_PER_S,
    )


def run_engine(make: Callable[..., Engine]) -> Outcome:
    """By counting where that can be done.

    Args:
        make: with ``exact``: an engine with its workload.
    """
    engine = make(exact=False)
    outcome = engine.run()
    return make(exact=True).run() if engine.short else outcome
