"""Rows that every campaign of simulated seeds has."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from opsuite.bench.result import Row

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

_SHOWN = 10
Fault = TypeVar("Fault", bound=StrEnum)


def broken_row(broken: Mapping[int, str], seeds: int) -> Row:
    """How many seeds broke an invariant, and which one."""
    told = [f"seed {seed}: {what}" for seed, what in sorted(broken.items())[:_SHOWN]]
    return Row(
        name="invariants broken",
        value=len(broken),
        unit="",
        rounds=seeds,
        target="0",
        met=not broken,
        note="; ".join(told),
    )


def fault_rows(faults: Counter[Fault], seeds: int) -> list[Row]:
    """How often each fault struck."""
    return [
        Row(name=f"fault: {fault}", value=count, unit="", rounds=seeds)
        for fault, count in faults.most_common()
    ]
