"""Messages over a socket pair between processes of ours: framed, bounded, checked against their
type, never unpickled.

    frame: length (4 bytes, little endian) | msgpack
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    import asyncio
    import socket

_LENGTH = struct.Struct("<I")
_MOST_BYTES = 256 << 20
_PIECE_BYTES = 1 << 18

_ENCODER = msgspec.msgpack.Encoder()
In = TypeVar("In")


class ChannelError(Exception):
    """The other end does not speak as it should."""


def framed(message: Any) -> bytes:  # noqa: ANN401 - whatever msgspec encodes
    """A message as it is sent."""
    content = _ENCODER.encode(message)
    assert len(content) <= _MOST_BYTES, "bounded by what a request may hold"
    return _LENGTH.pack(len(content)) + content


async def read(reader: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[In]) -> In:
    """The next message.

    Raises:
        EOFError, OSError: the other end is gone.
        ChannelError: it does not speak as it should.
    """
    length = _length(await reader.readexactly(_LENGTH.size))
    return _decoded(decoder, await reader.readexactly(length))


class Channel(Generic[In]):
    """One end, for a process that has nothing else to wait for."""

    def __init__(self, connection: socket.socket, decoder: msgspec.msgpack.Decoder[In]) -> None:
        self._connection = connection
        self._decoder = decoder
        self._held = bytearray()

    def fileno(self) -> int:
        """For selectors."""
        return self._connection.fileno()

    def send(self, message: Any) -> None:  # noqa: ANN401
        """OSError: nobody is there any more."""
        self._connection.sendall(framed(message))

    def receive_one(self) -> In:
        """The next message; see :meth:`receive`."""
        while (found := self._next()) is None:
            self._read()
        return found

    def receive(self, timeout_s: float | None) -> list[In]:
        """All that has arrived; waits for something at most so long (None: for ever; 0: not).

        Raises:
            EOFError, OSError: the other end is gone.
            ChannelError: it does not speak as it should.
        """
        self._connection.settimeout(timeout_s)
        try:
            self._read()
            self._connection.settimeout(0)
            while True:
                self._read()
        except (BlockingIOError, TimeoutError):
            pass
        finally:
            self._connection.settimeout(None)
        found = []
        while (message := self._next()) is not None:
            found.append(message)
        return found

    def close(self) -> None:
        """The other end hears that nobody is here."""
        self._connection.close()

    def _read(self) -> None:
        piece = self._connection.recv(_PIECE_BYTES)
        if not piece:
            raise EOFError
        self._held += piece

    def _next(self) -> In | None:
        """A whole message of what is held."""
        if len(self._held) < _LENGTH.size:
            return None
        stop = _LENGTH.size + _length(self._held[: _LENGTH.size])
        if stop > len(self._held):
            return None
        content = bytes(self._held[_LENGTH.size : stop])
        del self._held[:stop]
        return _decoded(self._decoder, content)


def _length(head: bytes | bytearray) -> int:
    (length,) = _LENGTH.unpack(head)
    if length > _MOST_BYTES:
        raise ChannelError(f"a frame of {length} bytes")
    return int(length)


def _decoded(decoder: msgspec.msgpack.Decoder[In], content: bytes) -> In:
    try:
        return decoder.decode(content)
    except msgspec.DecodeError as error:
        raise ChannelError(str(error)) from error
