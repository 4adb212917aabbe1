"""The asyncio side of the seam to the engine: each response reads its own requests' deltas."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from engine.serving.request import Delta, GenerationRequest


class TooBusyError(Exception):
    """As many requests as may wait are waiting."""


class ClosingError(Exception):
    """The server takes no more requests."""


class EngineSide(Protocol):
    """What the streams need of an engine; in another process it would be a connection."""

    @property
    def alive(self) -> bool: ...
    def submit(self, requests: Iterable[GenerationRequest]) -> None: ...
    def cancel(self, numbers: Iterable[int]) -> None: ...


class Streams:
    """All requests that the engine works on, and where their deltas go.

    Args:
        max_open: most requests that run or wait at a time.
    """

    def __init__(self, *, max_open: int) -> None:
        self._max_open = max_open
        self._numbers = itertools.count()
        self._open: dict[int, Stream] = {}
        self._closing = False

    def attach(self, engine: EngineSide) -> None:
        """Connect to the engine; called in the event loop that the responses run in."""
        self._engine = engine
        self._loop = asyncio.get_running_loop()

    @property
    def engine_alive(self) -> bool:
        """Whether the engine works."""
        return self._engine.alive

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

    def open(self, requests: Sequence[GenerationRequest]) -> Stream:
        """Submit requests whose deltas are read together.

        Raises:
            ClosingError: the server is stopping, or its engine failed.
            TooBusyError: the queue is full.
        """
        if not self.ready:
            raise ClosingError
        if len(self._open) + len(requests) > self._max_open:
            raise TooBusyError
        stream = Stream(self, [request.number for request in requests])
        self._open.update(dict.fromkeys(stream.unfinished, stream))
        self._engine.submit(requests)
        return stream

    def deliver(self, deltas: list[Delta]) -> None:
        """Take deltas from the engine's thread."""
        self._loop.call_soon_threadsafe(self._dispatch, deltas)

    def close(self) -> None:
        """Take no more requests; those at work go on."""
        self._closing = True

    def cancel(self, numbers: Iterable[int]) -> None:
        """Withdraw requests; their streams get a last delta if they still listen."""
        self._engine.cancel(numbers)

    def cancel_all(self) -> None:
        """Withdraw every request."""
        self.cancel(list(self._open))

    def forget(self, numbers: Iterable[int]) -> None:
        """Listen no more for these requests."""
        for number in numbers:
            self._open.pop(number, None)

    def _dispatch(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            stream = self._open.get(delta.number)
            if delta.finish:
                self.forget([delta.number])
            if stream:
                stream.put(delta)


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
            self._streams.cancel(self.unfinished)
            self._streams.forget(self.unfinished)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        while self.unfinished:
            delta = await self._deltas.get()
            if delta.finish:
                self.unfinished.discard(delta.number)
            yield delta
