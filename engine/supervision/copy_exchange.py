"""Executors give each other copies, and ask for them: over the job's authenticated wire.

After each copy of its own ranks an executor sends it to its peer, the next host of the job. Only
when the peer has confirmed it does the driver hear that it holds it: then it survives this host.
"""

from __future__ import annotations

import asyncio
import json
import logging
import mmap
import os
import zlib
from typing import TYPE_CHECKING, Any

from engine.supervision.rank_link import CopyMemory
from engine.supervision.wire import WireError, accept, connect

if TYPE_CHECKING:
    from engine.supervision.copies import Copies
    from engine.supervision.wire import Channel

_log = logging.getLogger("opsuite")
_MOST_BYTES = 1 << 40
_GIVE_S = 120.0
LOST = (OSError, EOFError, TimeoutError, WireError)
"""What it means that the other executor does not answer as it should."""


class CopyServer:
    """Answers other executors.

    Attributes:
        port: that it listens on.
    """

    def __init__(self, copies: Copies, key: bytes) -> None:
        self._copies = copies
        self._key = key
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self, host: str) -> None:
        """Listen at an address of this host."""
        self._server = await asyncio.start_server(self._serve, host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Answer nobody any more."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            channel = await accept(reader, writer, self._key)
            await self._answer(channel, json.loads(await channel.receive()))
            await channel.close()
        except (*LOST, ValueError, KeyError, TypeError) as error:
            _log.warning("another executor's request failed: %s", error)
            writer.close()

    async def _answer(self, channel: Channel, asked: dict[str, Any]) -> None:
        if asked["kind"] == "keep":
            given = await _receive(channel, asked)
            self._copies.keep(int(asked["attempt"]), int(asked["rank"]), given)
            await channel.send(b"kept")
            return
        memory = self._copies.find(int(asked["rank"]), int(asked["step"]), int(asked["attempt"]))
        if memory is None:
            await channel.send(b"{}")
            return
        await channel.send(json.dumps(_about(memory)).encode())
        await _send(channel, memory)


async def give(address: str, key: bytes, *, attempt: int, rank: int, memory: CopyMemory) -> None:
    """Have the executor at ``address`` hold a copy too; returns when it has confirmed it.

    Raises:
        OSError, EOFError, TimeoutError, WireError: see :data:`LOST`.
    """
    async with asyncio.timeout(_GIVE_S):
        channel = await connect(address, key)
        try:
            about = {"kind": "keep", "attempt": attempt, "rank": rank, **_about(memory)}
            await channel.send(json.dumps(about).encode())
            await _send(channel, memory)
            if await channel.receive() != b"kept":
                raise WireError("the copy was not taken")
        finally:
            await channel.close()


async def fetch(
    address: str, key: bytes, *, rank: int, step: int, attempt: int
) -> CopyMemory | None:
    """A copy that the executor at ``address`` holds, made in ``attempt``; None: it does not.

    Raises:
        OSError, EOFError, TimeoutError, WireError: see :data:`LOST`.
    """
    async with asyncio.timeout(_GIVE_S):
        channel = await connect(address, key)
        try:
            asked = {"kind": "want", "rank": rank, "step": step, "attempt": attempt}
            await channel.send(json.dumps(asked).encode())
            about = json.loads(await channel.receive())
            if not about:
                return None
            return await _receive(channel, about)
        finally:
            await channel.close()


def _about(memory: CopyMemory) -> dict[str, int]:
    return {"step": memory.step, "bytes": memory.size_bytes, "crc": memory.crc32}


async def _send(channel: Channel, memory: CopyMemory) -> None:
    with mmap.mmap(memory.descriptor, memory.size_bytes, prot=mmap.PROT_READ) as mapped:
        view = memoryview(mapped)
        try:
            await channel.send_memory(view)
        finally:
            view.release()


async def _receive(channel: Channel, about: dict[str, Any]) -> CopyMemory:
    """Into memory of this process; only what arrived whole is a copy."""
    size, crc = int(about["bytes"]), int(about["crc"])
    if not 0 < size < _MOST_BYTES:
        raise WireError(f"a copy of {size} bytes")
    descriptor = os.memfd_create("opsuite-copy", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, size)
        with mmap.mmap(descriptor, size) as mapped:
            view = memoryview(mapped)
            try:
                await channel.receive_memory(view)
                whole = zlib.crc32(view) == crc
            finally:
                view.release()
        if not whole:
            raise WireError("a copy with a wrong checksum")
    except BaseException:
        os.close(descriptor)
        raise
    return CopyMemory(step=int(about["step"]), size_bytes=size, crc32=crc, descriptor=descriptor)
