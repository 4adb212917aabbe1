"""Requests that have not ended, and what their clients were given: so they outlive an engine.

A request that kills the engine whenever it is computed must not take others with it. All that were
being computed when an engine died, and had been given no token by it, are suspects: they join the
next engine one after the other, each when the one before has been given a token or has ended. Who
is there at three deaths is to blame, and fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.serving.request import FinishReason, Token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.serving.request import GenerationRequest

MOST_DEATHS = 3
"""Of engines that a request may see while it is computed, without a token in between."""


class _Open:
    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.output: list[int] = []
        self.deaths = 0

    def resumed(self) -> GenerationRequest:
        return msgspec.structs.replace(self.request, output=tuple(self.output))

    def failed(self) -> Token:
        number, place = self.request.number, len(self.output)
        return Token(number=number, place=place, token=-1, finish=FinishReason.ERROR)


class OpenRequests:
    """By their numbers."""

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}
        self._unproven: frozenset[int] = frozenset()
        self._suspects: list[int] = []  # the first of them has joined, the others wait

    def __len__(self) -> int:
        return len(self._open)

    def add(self, requests: Iterable[GenerationRequest]) -> None:
        """New ones."""
        self._open.update((request.number, _Open(request)) for request in requests)

    def forget(self, numbers: Iterable[int]) -> tuple[GenerationRequest, ...]:
        """Nobody wants these any more; those that ended are passed over.

        Returns:
            Those that join the engine now, here and in :meth:`take`.
        """
        for number in numbers:
            self._open.pop(number, None)
        return self._next_suspect()

    def take(
        self, tokens: Iterable[Token], unproven: Iterable[int]
    ) -> tuple[GenerationRequest, ...]:
        """What an engine gave, and whom it computes now that it has given no token yet."""
        self._unproven = frozenset(unproven)
        for token in tokens:
            if token.finish:
                self._open.pop(token.number, None)
            elif held := self._open.get(token.number):
                held.output.append(token.token)
                held.deaths = 0
        return self._next_suspect()

    def bury(self) -> tuple[list[Token], tuple[GenerationRequest, ...]]:
        """The engine is dead: the ends of those that are to blame, and who joins the next one."""
        failed = []
        for number, held in list(self._open.items()):
            held.deaths += number in self._unproven
            if held.deaths == MOST_DEATHS:
                failed.append(self._open.pop(number).failed())
        self._unproven = frozenset()
        suspects = [number for number, held in self._open.items() if held.deaths]
        self._suspects = sorted(suspects, key=lambda number: -self._open[number].deaths)
        waiting = set(self._suspects[1:])
        joining = [held for number, held in self._open.items() if number not in waiting]
        return failed, tuple(held.resumed() for held in joining)

    def _next_suspect(self) -> tuple[GenerationRequest, ...]:
        """The next one, once the one that has joined is cleared."""
        first = self._suspects[0] if self._suspects else None
        if first is None or (first in self._open and self._open[first].deaths):
            return ()
        self._suspects = [number for number in self._suspects[1:] if number in self._open]
        if not self._suspects:
            return ()
        return (self._open[self._suspects[0]].resumed(),)
