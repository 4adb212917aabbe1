"""The classes of faults there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.faults.slow_rank import SlowRank

if TYPE_CHECKING:
    from engine.faults.grammar import Fault

FAULTS: dict[str, type[Fault]] = {fault.name: fault for fault in (SlowRank,)}
"""Every class, by its name in the grammar."""
