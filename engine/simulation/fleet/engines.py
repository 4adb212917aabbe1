"""Engines that baselines are made of: a scheduler for each, as a live engine has it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from engine.scheduling.fcfs import FirstComeFirstServed
from engine.scheduling.limits import Limits
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.short_first import ShortFirst
from engine.simulation.serve.simulator import Simulator

if TYPE_CHECKING:
    from engine.profiles.latency import Latency
    from engine.scheduling.prefixes import Prefixes
    from engine.simulation.fleet.set_up import FleetSetUp
    from engine.simulation.serve.request import Workload

BLOCK_TOKENS = 16
_NO_SWAPPING_BYTES_PER_S = 1.0  # nothing is moved: what was put out is computed again


class Order(StrEnum):
    """Whose prompt is computed first."""

    FCFS = FirstComeFirstServed.name
    SHORT = ShortFirst.name


def fitting_tokens(set_up: FleetSetUp, instances: int) -> int:
    """How long a request may be on an engine that has the memory of so many instances."""
    return instances * set_up.kv_tokens // BLOCK_TOKENS * BLOCK_TOKENS


def make_engine(
    set_up: FleetSetUp,
    latency: Latency,
    workload: Workload,
    *,
    instances: int,
    order: Order = Order.FCFS,
    chunk: int | None = None,
    prefixes: Prefixes | None = None,
) -> Simulator:
    """One engine with the memory, and the cap on batches, of so many instances.

    Args:
        workload: none of its requests is longer than :func:`fitting_tokens`.
        chunk: tokens of prompts in an iteration; None: prompts are computed whole.
        prefixes: what need not be computed.
    """
    limits = Limits(
        max_batch=set_up.max_batch * instances,
        blocks=fitting_tokens(set_up, instances) // BLOCK_TOKENS,
        block_tokens=BLOCK_TOKENS,
        prefill_tokens=chunk,
    )
    policy = FirstComeFirstServed() if order is Order.FCFS else ShortFirst()
    return Simulator(
        Scheduler(policy, limits, prefixes),
        latency,
        workload,
        bytes_per_token=set_up.base.kv_bytes_per_token,
        link_bytes_per_s=_NO_SWAPPING_BYTES_PER_S,
    )
