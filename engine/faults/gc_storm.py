"""A rank whose Python collects garbage over and over."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.faults.keys import between, key
from engine.faults.rank_fault import Condition, LastingFault

if TYPE_CHECKING:
    from engine.faults.place import Place

_CYCLES = 50_000  # a collection takes some 10 ms


@dataclass(frozen=True, kw_only=True)
class GcStorm(LastingFault):
    """At the beginning of some steps, one rank makes cycles of objects and collects them."""

    name: ClassVar[str] = "gc-storm"

    ms: int = key("how long in each step", between(1, 600_000), default=200)

    def hook(self, place: Place) -> Storm:
        return Storm(self, place, self.ms / 1e3)


class Storm(Condition):
    """Collections in the main thread, until their time is over."""

    def __init__(self, fault: GcStorm, place: Place, seconds: float) -> None:
        super().__init__(fault, place)
        self._seconds = seconds

    def begin(self) -> None:
        """Nothing yet: each step has its own."""

    def undo(self) -> None:
        """Nothing: a step's garbage is gone when the step goes on."""

    def on_step_begin(self, step: int) -> None:
        super().on_step_begin(step)
        if self._on:
            _collect_for(self._seconds)


def _collect_for(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(_CYCLES):
            cycle: list[object] = []
            cycle.append(cycle)
        gc.collect()
