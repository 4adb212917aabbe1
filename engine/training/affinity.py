"""Which cores each rank computes on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class AffinityPlan:
    """Cores per local rank, or the reason why ranks stay unpinned.

    Exactly one of the two is there: ``cores`` is empty where ``reason`` is not.
    """

    cores: tuple[tuple[int, ...], ...] = ()
    reason: str = ""


def plan_affinity(
    available: Sequence[int] | None, *, ranks: int, threads: int, pin: bool
) -> AffinityPlan:
    """Give each of ``ranks`` local ranks ``threads`` cores of its own, in order.

    Args:
        available: cores this process may use; None where the system cannot pin.
        pin: whether pinning is wanted at all.
    """
    if not pin:
        return AffinityPlan(reason="parallel.pin is false")
    if available is None:
        return AffinityPlan(reason="this system does not let processes choose their cores")
    if ranks * threads > len(available):
        return AffinityPlan(
            reason=f"{ranks} rank(s) with {threads} thread(s) need {ranks * threads} cores,"
            f" {len(available)} may be used"
        )
    cores = sorted(available)
    return AffinityPlan(
        cores=tuple(tuple(cores[r * threads : (r + 1) * threads]) for r in range(ranks))
    )


def available_cores() -> list[int] | None:
    """The cores that this process may use; None where the system cannot tell or pin."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(os.sched_getaffinity(0))


def pin_process(cores: Sequence[int]) -> None:
    """Keep this process, and the threads it starts from now on, on ``cores``."""
    os.sched_setaffinity(0, cores)
