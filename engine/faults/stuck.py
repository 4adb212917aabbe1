"""Ranks that live, and do no more steps."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.faults.rank_fault import StepFault, StrikeAtStep

if TYPE_CHECKING:
    from engine.faults.place import Place


@dataclass(frozen=True, kw_only=True)
class Deadlock(StepFault):
    """The rank's main thread waits for ever for a lock that another thread holds."""

    name: ClassVar[str] = "deadlock"

    def hook(self, place: Place) -> StrikeAtStep:
        return StrikeAtStep(self, place, _wait_for_ever)


@dataclass(frozen=True, kw_only=True)
class EndlessLoop(StepFault):
    """The rank's main thread spins in Python for ever."""

    name: ClassVar[str] = "endless-loop"

    def hook(self, place: Place) -> StrikeAtStep:
        return StrikeAtStep(self, place, _spin_for_ever)


def _wait_for_ever() -> None:
    lock, held = threading.Lock(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            threading.Event().wait()

    threading.Thread(target=hold, name="lock-holder", daemon=True).start()
    held.wait()
    with lock:
        pass


def _spin_for_ever() -> None:
    spins = 0
    while True:
        spins += 1
