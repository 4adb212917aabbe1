"""All responses at work: each reads its own requests' deltas."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Protocol, Self

from engine.serving.api.generation import Generation
from engine.serving.request import FinishReason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from engine.serving.api.delta import Delta
    from engine.serving.api.detokenizer import Vocabulary
    from engine.serving.api.metrics import Metrics
    from engine.serving.request import GenerationRequest, Token


class TooBusyError(Exception):
    """As many requests as may wait are waiting."""


class ClosingError(Exception):
    """The server takes no more requests."""


class EngineSide(Protocol):
    """What the streams need of an engine."""

    @property
    def alive(self) -> bool: ...
    @property
    def answers(self) -> bool: ...
    def submit(self, requests: Sequence[GenerationRequest]) -> None: ...
    def cancel(self, numbers: Sequence[int]) -> None: ...


class Streams:
    """All requests that the engine works on, and where their text goes. Of one event loop.

    Args:
        max_open: most requests that run or wait at a time.
    """

    def __init__(
        self, engine: EngineSide, vocabulary: Vocabulary, metrics: Metrics, *, max_open: int
    ) -> None:
        self._engine = engine
        self._vocabulary = vocabulary
        self._metrics = metrics
        self._max_open = max_open
        self._numbers = itertools.count()
        self._open: dict[int, tuple[Stream, Generation]] = {}
        self._closing = False

    @property
    def engine_alive(self) -> bool:
        """Whether the engine works."""
        return self._engine.alive

    @property
    def answers(self) -> bool:
        """Whether new requests are taken, and will be answered soon for all that is known."""
        return self.ready and self._engine.answers

    @property
    def ready(self) -> bool:
        """Whether new requests are taken."""
        return self._engine.alive and not self._closing

    @property
    def open_requests(self) -> int:
        """Requests that run or wait."""
        return len(self._open)

    def next_number(self) -> int:
        """A number for a new request."""
        return next(self._numbers)

    def open(self, requests: Sequence[GenerationRequest], stop: Sequence[str] = ()) -> Stream:
        """Submit requests whose deltas are read together.

        Args:
            stop: texts that end each of them.

        Raises:
            ClosingError: the server is stopping, or its engine failed.
            TooBusyError: the queue is full.
        """
        if not self.ready:
            raise ClosingError
        if len(self._open) + len(requests) > self._max_open:
            raise TooBusyError
        stream = Stream(self, [request.number for request in requests])
        for request in requests:
            generation = Generation(request.number, self._vocabulary, stop)
            self._open[request.number] = stream, generation
        self._metrics.arrived(requests)
        self._engine.submit(requests)
        return stream

    def deliver(self, tokens: Iterable[Token]) -> None:
        """Take tokens from the engine; those of requests that are no longer open are let go."""
        stopped = []
        for token in tokens:
            if token.number not in self._open:
                continue
            stream, generation = self._open[token.number]
            delta = generation.append(token)
            self._metrics.given(delta)
            if delta.finish:
                del self._open[token.number]
                if not token.finish:
                    stopped.append(token.number)
            if delta.finish or delta.text or delta.likelihood:
                stream.put(delta)
        if stopped:
            self._engine.cancel(stopped)

    def close(self) -> None:
        """Take no more requests; those at work go on."""
        self._closing = True

    def withdraw(self, numbers: Iterable[int]) -> None:
        """Nobody listens to these any more."""
        gone = [number for number in numbers if self._open.pop(number, None)]
        for number in gone:
            self._metrics.ended(number, FinishReason.CANCELLED)
        if gone:
            self._engine.cancel(gone)

    def give_up(self, reason: FinishReason) -> None:
        """Every request ends here; their streams hear of it."""
        ending, self._open = self._open, {}
        for stream, generation in ending.values():
            self._metrics.ended(generation.number, reason)
            stream.put(generation.ended(reason))
        if ending and self._engine.alive:
            self._engine.cancel([*ending])


class Stream:
    """The deltas of one response's requests, in order of arrival.

    Used as a context: leaving it early withdraws what has not ended.
    """

    def __init__(self, streams: Streams, numbers: Sequence[int]) -> None:
        self._streams = streams
        self._deltas: asyncio.Queue[Delta] = asyncio.Queue()
        self.unfinished = set(numbers)

    def put(self, delta: Delta) -> None:
        """Add a delta; called in the event loop."""
        self._deltas.put_nowait(delta)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self.unfinished:
            self._streams.withdraw(self.unfinished)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        while self.unfinished:
            delta = await self._deltas.get()
            if delta.finish:
                self.unfinished.discard(delta.number)
            yield delta
