"""The classes of faults there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.errors import UsageError
from engine.faults.grammar import parse_fault
from engine.faults.slow_rank import SlowRank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.faults.grammar import Fault

FAULTS: dict[str, type[Fault]] = {fault.name: fault for fault in (SlowRank,)}
"""Every class, by its name in the grammar."""


def check_faults(texts: Sequence[str], *, ranks: int, steps: int) -> None:
    """Make sure that a run of this size can have these faults.

    Raises:
        UsageError: one is malformed, of no class there is, or outside of the run.
    """
    for text in texts:
        if misfit := parse_fault(text, FAULTS).misfit(world_size=ranks, steps=steps):
            raise UsageError(misfit, where=f"--fault {text}", remedy="correct the fault")
