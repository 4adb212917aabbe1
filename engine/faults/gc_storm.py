"""A rank whose Python collects garbage over and over."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.faults.keys import between, key
from engine.faults.rank_fault import Condition, LastingFault

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from engine.faults.place import Place

_CONTAINERS = 200_000  # that each collection looks through: some 10 ms


@dataclass(frozen=True, kw_only=True)
class GcStorm(LastingFault):
    """In some steps, one rank holds many objects and collects garbage in its forward pass."""

    name: ClassVar[str] = "gc-storm"

    ms: int = key("how long in each step", between(1, 600_000), default=200)

    def out_of_place(self, place: Place) -> str:
        return "" if place.modules else "the rank has no part of the model"

    def hook(self, place: Place) -> Storm:
        return Storm(self, place, self.ms / 1e3)


class Storm(Condition):
    """Collections in the first forward pass of each step, until their time is over."""

    def __init__(self, fault: GcStorm, place: Place, seconds: float) -> None:
        super().__init__(fault, place)
        self._seconds = seconds
        self._heap: list[list[int]] = []
        self._handle: RemovableHandle | None = None
        self._due = False

    def begin(self) -> None:
        """Fill the heap."""
        self._heap = [[number] for number in range(_CONTAINERS)]
        self._handle = self._place.modules[0].register_forward_pre_hook(self._on_forward)

    def undo(self) -> None:
        """Empty it."""
        self._heap = []
        if self._handle is not None:
            self._handle.remove()

    def on_step_begin(self, step: int) -> None:
        super().on_step_begin(step)
        self._due = self._on

    def _on_forward(self, *_: object) -> None:
        if self._due:
            self._due = False
            _collect_for(self._seconds)


def _collect_for(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        gc.collect()
