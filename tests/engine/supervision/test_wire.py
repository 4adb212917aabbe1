"""Who knows the key is understood, in order and whole; nobody else is, whatever they send."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.supervision.wire import (
    MOST_BYTES,
    Channel,
    WireError,
    accept,
    connect,
    make_key,
    read_key,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

KEY = secrets.token_bytes(32)
LOST = (OSError, EOFError, TimeoutError, WireError)


def talk(
    answer: Callable[[Channel], Awaitable[object]],
    call: Callable[[str], Awaitable[object]],
    key: bytes = KEY,
) -> list[BaseException]:
    """``call`` a server that ``answer``s; gives what the server met."""
    met: list[BaseException] = []

    async def main() -> None:
        over = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await answer(await accept(reader, writer, key))
            except LOST as error:
                met.append(error)
            finally:
                writer.close()
                over.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        await call(f"{host}:{port}")
        await asyncio.wait_for(over.wait(), 5)
        server.close()

    asyncio.run(main())
    return met


@given(messages=st.lists(st.binary(max_size=2000), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_frames_come_whole_and_in_order(messages: list[bytes]) -> None:
    heard: list[bytes] = []

    async def answer(channel: Channel) -> None:
        for _ in messages:
            heard.append(await channel.receive())
            await channel.send(heard[-1][::-1])

    async def call(address: str) -> None:
        channel = await connect(address, KEY)
        for message in messages:
            await channel.send(message)
            assert await channel.receive() == message[::-1]
        await channel.close()

    assert talk(answer, call) == []
    assert heard == messages


async def hear(channel: Channel) -> None:
    await channel.receive()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not tell round trips")
def test_round_trips_are_measured() -> None:
    trips: list[float | None] = []

    async def answer(channel: Channel) -> None:
        await channel.send(await channel.receive())

    async def call(address: str) -> None:
        channel = await connect(address, KEY)
        await channel.send(b"there and back")
        await channel.receive()
        trips.append(channel.round_trip_s())
        await channel.close()

    talk(answer, call)
    assert trips[0] is not None
    assert 0.0 < trips[0] < 0.1


def test_another_key_is_refused() -> None:
    async def call(address: str) -> None:
        channel = await connect(address, secrets.token_bytes(32))
        await channel.send(b"hello")
        await channel.close()

    [error] = talk(hear, call)
    assert isinstance(error, WireError)


def test_what_was_said_cannot_be_said_again() -> None:
    """A frame of one connection, recorded on the way, is worth nothing on another."""
    recorded = b""

    async def record(address: str) -> None:
        nonlocal recorded
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        through = asyncio.StreamReader()

        class Tap:
            def write(self, data: bytes) -> None:
                nonlocal recorded
                recorded += data
                writer.write(data)

            def __getattr__(self, name: str) -> object:
                return getattr(writer, name)

        from engine.supervision import wire

        shaken = await wire._shake(reader, Tap(), KEY, own=b"e")  # type: ignore[arg-type]
        await shaken.send(b"stop everything")
        await shaken.close()
        del through

    async def replay(address: str) -> None:
        host, _, port = address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(recorded)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()

    assert talk(hear, record) == []
    [error] = talk(hear, replay)
    assert isinstance(error, WireError)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n" + bytes(40),
        b"opsuite1" + bytes(16) + (MOST_BYTES + 1).to_bytes(4, "big") + bytes(64),
        b"opsuite1" + bytes(16) + (5).to_bytes(4, "big") + bytes(32) + b"hello",
        b"opsuite1" + bytes(3),
    ],
    ids=["nothing", "http", "too long", "no code", "cut"],
)
def test_strangers_are_refused(sent: bytes) -> None:
    async def call(address: str) -> None:
        host, _, port = address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(OSError):
            writer.write(sent)
            await writer.drain()
            writer.write_eof()
            await asyncio.sleep(0.05)
        writer.close()

    [error] = talk(hear, call)
    assert isinstance(error, LOST)


def test_the_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    first = make_key(tmp_path)
    assert make_key(tmp_path) == first == read_key(tmp_path)
    assert len(first) == 32
    [path] = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
