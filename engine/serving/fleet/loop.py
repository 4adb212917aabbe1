"""Drives a fleet: hears of requests and instances, tells steps, and what they gave."""

from __future__ import annotations

import logging
import select
import time
from typing import TYPE_CHECKING, Any, NoReturn

from engine.serving.fleet.tick import Tick
from engine.serving.wire import Join, Progress, Withdraw

if TYPE_CHECKING:
    from engine.serving.channel import Channel
    from engine.serving.fleet.crew import Crew, News
    from engine.serving.fleet.engine import FleetEngine
    from engine.serving.request import GenerationRequest, Token
    from engine.serving.wire import ToEngine

_log = logging.getLogger(__name__)
_LOOK_S = 1.0  # between looks at who is overdue


class FleetLoop:
    """Until the other end of the connection is gone.

    Args:
        patience_s: an instance that is at one step for so long is replaced.
    """

    def __init__(
        self, engine: FleetEngine, crew: Crew, channel: Channel[ToEngine], *, patience_s: float
    ) -> None:
        self._engine = engine
        self._crew = crew
        self._channel = channel
        self._patience_s = patience_s

    def run(self) -> NoReturn:
        """EOFError, OSError: nobody is there any more."""
        while True:
            channels: list[Channel[Any]] = [self._channel, *self._crew.channels]
            ready = select.select(channels, [], [], _LOOK_S)[0]
            joined, withdrawn = self._asked() if self._channel in ready else ((), ())
            tick = _tick(self._crew.hear(ready), joined, withdrawn)
            tokens, steps = self._engine.step(tick)
            self._crew.compute(steps)
            self._report(tokens)
            self._end_overdue(tick.now)

    def _asked(self) -> tuple[tuple[GenerationRequest, ...], tuple[int, ...]]:
        """New requests, and those no longer wanted."""
        joined: list[GenerationRequest] = []
        withdrawn: list[int] = []
        for message in self._channel.receive(0):
            if isinstance(message, Join):
                joined += message.requests
            elif isinstance(message, Withdraw):
                withdrawn += message.numbers
        return tuple(joined), tuple(withdrawn)

    def _report(self, tokens: list[Token]) -> None:
        self._channel.send(Progress(tuple(tokens), self._engine.unproven, self._engine.load()))

    def _end_overdue(self, now: float) -> None:
        for flight in self._engine.flights.values():
            if now - flight.begun_s > self._patience_s:
                for instance in flight.missing:
                    _log.error("instance %d is at one step for too long", instance)
                    self._crew.kill(instance)


def _tick(news: News, joined: tuple[GenerationRequest, ...], withdrawn: tuple[int, ...]) -> Tick:
    return Tick(
        now=time.monotonic(),
        lost=tuple(news.lost),
        gained=tuple(news.gained),
        done=tuple(news.done),
        joined=joined,
        withdrawn=withdrawn,
    )
