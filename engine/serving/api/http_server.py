"""The HTTP server's life: ready, draining at a signal, gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING

import uvicorn

from engine.serving.api.connection import Connection
from engine.serving.request import FinishReason

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from starlette.types import ASGIApp

    from engine.serving.api.streams import Streams

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_POLL_S = 0.05
_LINGER_S = 3  # for clients that do not take in the end of their response


class HttpServer(uvicorn.Server):
    """uvicorn, with a word when it is ready, and signals that drain.

    The first SIGTERM or SIGINT refuses new requests, waits until those at work have ended, at most
    ``drain_s``, withdraws the rest and ends the server. A second one does not wait.

    Attributes:
        ended_by: the signal; None while there was none.
    """

    def __init__(
        self,
        app: ASGIApp,
        streams: Streams,
        *,
        drain_s: float,
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # what clients do wrong, they are told themselves
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_LINGER_S,
            )
        )
        # asyncio warns of every write to a client that just went away; that is ordinary here.
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        self.ended_by: signal.Signals | None = None
        self._streams = streams
        self._drain_s = drain_s
        self._on_ready = on_ready
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        engine_gone = not self._streams.engine_alive
        return await super().on_tick(counter) or engine_gone

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._draining is None:
            self.ended_by = number
            self._streams.close()
            self._draining = asyncio.create_task(self._drain())
        else:
            self._draining.cancel()
            self._streams.give_up(FinishReason.CANCELLED)
            self.should_exit = True

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                while self._streams.open_requests:
                    await asyncio.sleep(_POLL_S)
        self._streams.give_up(FinishReason.CANCELLED)
        self.should_exit = True
