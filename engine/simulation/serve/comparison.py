"""One policy on one workload and set-up, and the capacity that loads are relative to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from collectors.errors import UsageError
from engine.scheduling.limits import MakeRoom
from engine.scheduling.registry import POLICIES as OWN
from engine.scheduling.registry import Knowledge, make_policy
from engine.scheduling.scheduler import Scheduler
from engine.simulation.serve.set_up import CHUNK_TOKENS, RESERVED_TOKENS
from engine.simulation.serve.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.scheduling.job import Job
    from engine.scheduling.limits import Limits
    from engine.scheduling.policy import Policy
    from engine.simulation.serve.life import Outcome
    from engine.simulation.serve.request import Workload
    from engine.simulation.serve.set_up import SetUp

BASELINES = ("orca", "fastertransformer", "chunked")
"""FCFS in other engines: with the longest sequence reserved; by whole batches, with that reserved,
too; and with prefills of at most 512 tokens an iteration."""
POLICIES = (*OWN, *BASELINES)
_FCFS = "fcfs"


def check_policy(name: str) -> None:
    """Raises:
    UsageError: there is no such policy; lists those that are.
    """
    if name not in POLICIES:
        raise UsageError(
            f"no policy is named {name}",
            where="--policy",
            remedy=f"use some of: {', '.join(POLICIES)}",
        )


def simulate(
    set_up: SetUp,
    policy: str,
    workload: Workload,
    *,
    fast: bool = True,
    tokens: Callable[[float, Sequence[int]], None] | None = None,
) -> Outcome:
    """Of requests that each fit into the set-up's memory; see :class:`Simulator` for the rest.

    Raises:
        UsageError: there is no such policy, or the memory is too small for it.
    """
    check_policy(policy)
    limits = _limits(set_up, policy)
    outcome = Simulator(
        Scheduler(_policy(set_up, policy, workload), limits),
        set_up.costs.latency,
        workload,
        bytes_per_token=set_up.kv_bytes_per_token,
        link_bytes_per_s=set_up.link_bytes_per_s,
        deadline_s=_deadline_s(set_up, workload),
        fast=fast,
        tokens=tokens,
    ).run()
    return replace(outcome, policy=policy)


def capacity(set_up: SetUp, workload: Workload) -> float:
    """Requests a second of FCFS's makespan when all arrive at once."""
    outcome = simulate(replace(set_up, drain=None), _FCFS, workload.at_once())
    return len(workload.requests) / outcome.end_s


def _deadline_s(set_up: SetUp, workload: Workload) -> float:
    if set_up.drain is None or not workload.span_s:
        return float("inf")
    return workload.requests[-1].arrival_s + set_up.drain * workload.span_s


def _limits(set_up: SetUp, policy: str) -> Limits:
    if policy == "chunked":
        return replace(set_up.limits(MakeRoom.RECOMPUTE), prefill_tokens=CHUNK_TOKENS)
    if policy in BASELINES:
        return _reserving(set_up, whole_batches=policy == "fastertransformer")
    own = MakeRoom.RECOMPUTE if policy == _FCFS else MakeRoom.PROACTIVE
    return set_up.limits(set_up.make_room or own)


def _reserving(set_up: SetUp, *, whole_batches: bool) -> Limits:
    limits = replace(
        set_up.limits(MakeRoom.RECOMPUTE),
        reserve_tokens=RESERVED_TOKENS,
        whole_batches=whole_batches,
    )
    if not limits.fits(RESERVED_TOKENS):
        raise UsageError(
            f"memory of {set_up.kv_tokens:,} tokens is too small to reserve {RESERVED_TOKENS:,}",
            where="--kv-tokens",
            remedy=f"allow more, or leave {' and '.join(BASELINES[:2])} out",
        )
    return limits


def _policy(set_up: SetUp, policy: str, workload: Workload) -> Policy:
    """Oracles know the true lengths, or their true distribution."""
    lengths = [each.output_tokens for each in workload.requests]

    def output_tokens(job: Job) -> int:
        return lengths[job.number]

    knowledge = Knowledge(profile=set_up.costs, output_tokens=output_tokens, output_lengths=lengths)
    return make_policy(_FCFS if policy in BASELINES else policy, knowledge)
