"""The copies of ranks' states that an executor holds: its own ranks', and those of its peer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from engine.resilience.messages import Copy

if TYPE_CHECKING:
    from engine.supervision.rank_link import CopyMemory

_KEPT = 2  # steps of each rank: the newest may turn out to be bad


class Copies:
    """By rank, the newest of each. They are anonymous memory, and gone with this process."""

    def __init__(self) -> None:
        self._held: dict[int, list[tuple[int, CopyMemory]]] = {}

    @property
    def all(self) -> tuple[Copy, ...]:
        """What is held."""
        return tuple(
            Copy(attempt=attempt, rank=rank, step=memory.step)
            for rank, held in sorted(self._held.items())
            for attempt, memory in held
        )

    def keep(self, attempt: int, rank: int, memory: CopyMemory) -> None:
        """Hold one more; the oldest goes."""
        held = self._held.setdefault(rank, [])
        for again in [each for each in held if (each[0], each[1].step) == (attempt, memory.step)]:
            self._drop(held, again)
        held.append((attempt, memory))
        held.sort(key=lambda each: (each[0], each[1].step))
        for old in held[:-_KEPT]:
            self._drop(held, old)

    def find(self, rank: int, step: int, attempt: int) -> CopyMemory | None:
        """A rank's copy after a step, made in an attempt: another may have gone another way."""
        held = self._held.get(rank, ())
        return next((m for made_in, m in held if (made_in, m.step) == (attempt, step)), None)

    def drop_after(self, step: int) -> None:
        """The job has given up what it did after ``step``."""
        for held in self._held.values():
            for late in [each for each in held if each[1].step > step]:
                self._drop(held, late)

    @staticmethod
    def _drop(held: list[tuple[int, CopyMemory]], which: tuple[int, CopyMemory]) -> None:
        held.remove(which)
        os.close(which[1].descriptor)
