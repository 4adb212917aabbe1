"""Messages between the processes of a job: framed, authenticated, bounded, never pickled.

Both ends of a connection know the job's key. They exchange nonces, derive a key for this connection
from all three, and every frame carries a code over its direction, its number and its content: who
does not know the key can neither speak nor repeat what was said (HMAC, RFC 2104).

    frame: length (4 bytes, big endian) | HMAC-SHA256 (32 bytes) | content
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
import socket
import struct
from typing import TYPE_CHECKING

from collectors.errors import StorageError, Unreachable

if TYPE_CHECKING:
    from pathlib import Path

_HELLO = b"opsuite1"
_NONCE_BYTES = 16
_LENGTH = struct.Struct(">I")
_CODE_BYTES = 32
MOST_BYTES = 4 << 20
"""Of one frame."""
_PIECE_BYTES = 1 << 20
_SHAKE_S = 10.0
_TCP_INFO_BYTES = 72
_SMOOTHED_AT = 68  # tcpi_rtt, in struct tcp_info
KEY_FILE = "job.key"
HEARD = b"heard "
"""Begins the driver's answer to a heartbeat: of how many steps it has taken note."""


class WireError(Exception):
    """The other end does not know the key, or does not speak as it should; the connection ends."""


def make_key(run: Path) -> bytes:
    """The job's key: made once, readable by its owner only.

    Raises:
        StorageError: the disk refused.
    """
    path = run / KEY_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return read_key(run)
    except OSError as error:
        raise StorageError.from_os_error(error, "making the job's key") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    return read_key(run)


def read_key(run: Path) -> bytes:
    """The key of a job.

    Raises:
        Unreachable: the run has none: it was not started to recover from faults.
    """
    try:
        return bytes.fromhex((run / KEY_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise Unreachable(
            "the run has no driver to speak to",
            where=str(run),
            remedy="only runs with resilience.recover = true have one",
        ) from error


class Channel:
    """One authenticated connection; make it with :func:`accept` or :func:`connect`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes, *, own: bytes
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._key = key
        self._own = own
        self._their = b"d" if own == b"e" else b"e"
        self._sent = 0
        self._received = 0

    async def send(self, content: bytes) -> None:
        """Send one frame.

        Raises:
            OSError: the connection has ended.
        """
        assert len(content) <= MOST_BYTES, "a message is larger than the other end accepts"
        code = self._code(self._own, self._sent, content)
        self._sent += 1
        self._writer.write(_LENGTH.pack(len(content)) + code + content)
        await self._writer.drain()

    async def receive(self) -> bytes:
        """The next frame.

        Raises:
            OSError, EOFError: the connection has ended.
            WireError: the frame is too long, or was not made by who knows the key.
        """
        (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
        if length > MOST_BYTES:
            raise WireError(f"a frame of {length} bytes")
        code = await self._reader.readexactly(_CODE_BYTES)
        content = await self._reader.readexactly(length)
        if not hmac.compare_digest(code, self._code(self._their, self._received, content)):
            raise WireError("a frame with a wrong code")
        self._received += 1
        return content

    async def send_memory(self, memory: memoryview) -> None:
        """Send a large piece of memory, whose size the other end knows."""
        for first in range(0, len(memory), _PIECE_BYTES):
            await self.send(bytes(memory[first : first + _PIECE_BYTES]))

    async def receive_memory(self, into: memoryview) -> None:
        """Fill ``into`` with what the other end sends so."""
        for first in range(0, len(into), _PIECE_BYTES):
            piece = await self.receive()
            if len(piece) != min(_PIECE_BYTES, len(into) - first):
                raise WireError("a piece of another size than was told")
            into[first : first + len(piece)] = piece

    def round_trip_s(self) -> float | None:
        """Of packets to the other end and back, lately (Linux: struct tcp_info); else None."""
        connection = self._writer.get_extra_info("socket")
        if connection is None or not hasattr(socket, "TCP_INFO"):
            return None
        try:
            facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return None
        if len(facts) < _TCP_INFO_BYTES:
            return None
        (microseconds,) = struct.unpack_from("=I", facts, _SMOOTHED_AT)
        return float(microseconds) / 1e6

    async def close(self) -> None:
        """End the connection; what the other end makes of it is its own."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return

    def _code(self, direction: bytes, number: int, content: bytes) -> bytes:
        about = direction + number.to_bytes(8, "big")
        return hmac.digest(self._key, about + content, hashlib.sha256)


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> Channel:
    """The answering end's.

    Raises:
        OSError, EOFError, TimeoutError, WireError: there is nobody, or not one of ours.
    """
    return await _shake(reader, writer, key, own=b"d")


async def connect(address: str, key: bytes, timeout_s: float = _SHAKE_S) -> Channel:
    """The calling end's; ``address`` is "host:port".

    Raises:
        OSError, EOFError, TimeoutError, WireError: nobody answers, or not one of ours.
    """
    host, _, port = address.rpartition(":")
    opening = asyncio.open_connection(host.strip("[]"), int(port))
    reader, writer = await asyncio.wait_for(opening, timeout_s)
    return await _shake(reader, writer, key, own=b"e")


async def _shake(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes, *, own: bytes
) -> Channel:
    mine = secrets.token_bytes(_NONCE_BYTES)
    writer.write(_HELLO + mine)
    try:
        answer = reader.readexactly(len(_HELLO) + _NONCE_BYTES)
        theirs = await asyncio.wait_for(answer, _SHAKE_S)
    except BaseException:
        writer.close()
        raise
    if not theirs.startswith(_HELLO):
        writer.close()
        raise WireError("it does not speak our protocol")
    nonce = theirs[len(_HELLO) :]
    both = nonce + mine if own == b"d" else mine + nonce  # the calling end's first
    session = hmac.digest(key, b"session" + both, hashlib.sha256)
    return Channel(reader, writer, session, own=own)
