"""One client's connection: who does not send its request, or does not read its answer, is cut off.

uvicorn waits for both without end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

_ARRIVAL_S = 40.0  # from a connection's or a request's first byte to the request's last
_STALL_S = 30.0  # without a byte of the answer being read
_ARRIVING = (h11.IDLE, h11.SEND_BODY)


class Connection(H11Protocol):
    """uvicorn's, with two clocks."""

    _arrival: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # hear of every answer that is not read at once
        self._watch_arrival()

    def data_received(self, data: bytes) -> None:
        """It sends."""
        super().data_received(data)
        self._watch_arrival()

    def pause_writing(self) -> None:
        """The system takes no more for it."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self._forget_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self._forget_arrival()
        self._forget_reading()

    def _watch_arrival(self) -> None:
        if self.conn.their_state not in _ARRIVING:
            self._forget_arrival()
        elif self._arrival is None:
            self._arrival = self.loop.call_later(_ARRIVAL_S, self.transport.abort)

    def _watch_reading(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(_STALL_S, self._expect_less, unread)

    def _expect_less(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() < unread:
            self._watch_reading()
        else:
            self.transport.abort()

    def _forget_arrival(self) -> None:
        if self._arrival:
            self._arrival.cancel()
            self._arrival = None

    def _forget_reading(self) -> None:
        if self._stall:
            self._stall.cancel()
            self._stall = None
