"""A response as server-sent events, for as long as its client is there."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import Response

from engine.serving.api.error import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from pydantic import BaseModel
    from starlette.types import Receive, Scope, Send

    from engine.serving.api.plan import Plan
    from engine.serving.api.streams import Stream, Streams

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
_LINE_ENDS = "\u0085\u2028\u2029"  # of Unicode; an event ends with none of them

T = TypeVar("T")


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Do the work; None if the client went away first, which cancels it."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _one_line(event: bytes) -> bytes:
    """JSON without characters at which some clients break lines; they are inside of strings."""
    for character in _LINE_ENDS:
        event = event.replace(character.encode(), f"\\u{ord(character):04x}".encode())
    return event


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """The response to a request with ``stream``: a chunk per token, then ``[DONE]``; before that
    the token counts, where ``stream_options.include_usage`` asks for them.
    """

    def __init__(self, plan: Plan, streams: Streams) -> None:
        super().__init__()
        self._plan = plan
        self._streams = streams
        self._unasked = None if plan.body.usage_asked else {"usage"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._streams.open(self._plan.requests, self._plan.body.stops) as stream:
            await unless_disconnected(receive, self._send(stream, send))

    async def _send(self, stream: Stream, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async for event in self._events(stream):
            body = b"data: " + event + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _events(self, stream: Stream) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks(stream):
                yield _one_line(chunk.model_dump_json(exclude=self._unasked).encode())
        except ApiError as error:  # the status line is sent already: the error is an event
            yield json.dumps(error.body).encode()
        yield b"[DONE]"

    async def _chunks(self, stream: Stream) -> AsyncIterator[BaseModel]:
        tokens: dict[int, int] = {}
        for chunk in self._plan.opening():
            yield chunk
        async for delta in stream:
            part = self._plan.part(delta)
            tokens[part.index] = part.tokens
            yield self._plan.chunk(part)
        if self._plan.body.usage_asked:
            yield self._plan.closing(self._plan.usage(sum(tokens.values())))
