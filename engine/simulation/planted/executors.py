"""Executors with something wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.resilience.executor import Executor, RunRanks

if TYPE_CHECKING:
    from engine.resilience.executor import Action, Happening
    from engine.resilience.messages import Start


class ObeysAnyDriver(Executor):
    """The generation of orders is not looked at."""

    def handle(self, happening: Happening, now: float) -> list[Action]:
        self.generation = 0
        return super().handle(happening, now)


class StartsTwice(Executor):
    """New ranks do not wait for the end of the old ones."""

    def _start(self, order: Start) -> list[Action]:
        if self.attempt and order.attempt > self._last:
            self._last = self.attempt = order.attempt
            return [RunRanks(order=order)]
        return super()._start(order)


class StartsAgain(Executor):
    """An order that is given again is carried out again."""

    def _start(self, order: Start) -> list[Action]:
        if order.attempt == self._last and self.attempt:
            return [RunRanks(order=order)]
        return super()._start(order)


class NeverOrphaned(Executor):
    """Ranks without a driver go on for ever."""

    def _orphaned(self, now: float) -> list[Action]:
        return []
