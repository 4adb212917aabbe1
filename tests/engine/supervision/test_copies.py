"""Copies: the newest two of each rank and way; given, fetched and confirmed between executors."""

from __future__ import annotations

import asyncio
import os
import secrets
import zlib
from pathlib import Path

import pytest

from engine.supervision.copies import Copies
from engine.supervision.copy_exchange import LOST, CopyServer, fetch, give
from engine.supervision.rank_link import CopyMemory

KEY = secrets.token_bytes(32)


def memory(step: int, content: bytes = b"state" * 1000) -> CopyMemory:
    descriptor = os.memfd_create("test")
    os.write(descriptor, content)
    return CopyMemory(
        step=step, size_bytes=len(content), crc32=zlib.crc32(content), descriptor=descriptor
    )


def content(copy: CopyMemory) -> bytes:
    return os.pread(copy.descriptor, copy.size_bytes, 0)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_newest_two_of_a_rank_stay() -> None:
    before = open_descriptors()
    copies = Copies()
    for step in (10, 20, 30):
        for rank in (0, 1):
            copies.keep(1, rank, memory(step))
    assert [(c.rank, c.step) for c in copies.all] == [(0, 20), (0, 30), (1, 20), (1, 30)]
    copies.drop_after(25)
    assert {c.step for c in copies.all} == {20}
    copies.drop_after(0)
    assert copies.all == ()
    assert open_descriptors() == before


def test_another_way_to_the_same_step_is_another_copy() -> None:
    copies = Copies()
    copies.keep(1, 0, memory(20, b"given up"))
    copies.keep(2, 0, memory(20, b"gone on with"))
    found = copies.find(0, 20, 2)
    assert found is not None and content(found) == b"gone on with"
    assert copies.find(0, 20, 3) is None
    copies.drop_after(0)


def test_executors_give_and_fetch() -> None:
    state = secrets.token_bytes(3_500_000)  # several frames, the last not full

    async def main() -> None:
        theirs = Copies()
        server = CopyServer(theirs, KEY)
        await server.open("127.0.0.1")
        address = f"127.0.0.1:{server.port}"
        given = memory(10, state)
        await give(address, KEY, attempt=3, rank=1, memory=given)
        assert [(c.attempt, c.rank, c.step) for c in theirs.all] == [(3, 1, 10)]
        back = await fetch(address, KEY, rank=1, step=10, attempt=3)
        assert back is not None and content(back) == state
        assert await fetch(address, KEY, rank=1, step=10, attempt=4) is None
        with pytest.raises(LOST):
            await give(address, secrets.token_bytes(32), attempt=9, rank=1, memory=given)
        assert [c.attempt for c in theirs.all] == [3]
        server.close()
        for copy in (given, back):
            os.close(copy.descriptor)
        theirs.drop_after(0)

    asyncio.run(main())


def test_a_copy_that_was_altered_on_the_way_is_not_confirmed() -> None:
    async def main() -> None:
        theirs = Copies()
        server = CopyServer(theirs, KEY)
        await server.open("127.0.0.1")
        torn = memory(10)
        os.pwrite(torn.descriptor, b"!", 7)  # after its checksum was made
        with pytest.raises(LOST):
            await give(f"127.0.0.1:{server.port}", KEY, attempt=1, rank=0, memory=torn)
        assert theirs.all == ()
        server.close()
        os.close(torn.descriptor)

    asyncio.run(main())
