"""A 64-KiB segment cut at any byte, or with any byte flipped, gives right rows or none."""

from __future__ import annotations

import os
import random
import struct
import zlib
from typing import TYPE_CHECKING

import pytest

from collectors.errors import DataError
from collectors.record import Kind, kinds
from collectors.recorder import open_recorder
from collectors.segment import BLOCK_SIZE, HEADER, HEADER_SIZE, MAGIC, SCHEMA_VERSION
from collectors.segment_reader import read_header
from collectors.spool import Position, SpoolReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import Any

    from collectors.recorder import Identity
    from collectors.spool import Batch

    Rows = Callable[[Iterable[Batch]], list[tuple[Any, ...]]]

SPANS = 1022  # with the name, a block full of records: 64 KiB
EXPECTED = [(2, "forward", step, step + 5, step) for step in range(SPANS)]


def whole_segment(directory: Path, identity: Identity, *, closed: bool) -> tuple[Path, bytes]:
    """A segment of one full block, and its content."""
    recorder = open_recorder(directory, identity)
    for _, name, start, end, step in EXPECTED:
        recorder.record_span(name, start, end, step)
    [path] = directory.iterdir()
    if closed:
        recorder.close()
    content = path.read_bytes()[: HEADER_SIZE + BLOCK_SIZE]
    recorder.close()
    path.write_bytes(content)
    return path, content


def spans(batch: Batch) -> bytes:
    """The batch's spans, byte by byte; their name must be known, or all is lost."""
    chosen = batch.records[kinds(batch.records) == Kind.SPAN]
    assert not len(chosen) or batch.names == {1: "forward"}
    copied: bytes = chosen.tobytes()
    return copied


@pytest.mark.parametrize(("closed", "every"), [(True, 1), (False, 7)])
def test_cut_at_every_byte(
    rows: Rows, identity: Identity, tmp_path: Path, closed: bool, every: int
) -> None:
    """An open segment has no checksum to lose: there, every seventh cut meets all cases."""
    path, content = whole_segment(tmp_path, identity, closed=closed)
    [batch] = SpoolReader(tmp_path).poll()
    assert rows([batch]) == EXPECTED
    complete = spans(batch)
    for length in range(len(content) - 1, -1, -every):
        os.truncate(path, length)
        [batch] = SpoolReader(tmp_path).poll()
        found = spans(batch)
        if length < HEADER_SIZE or (closed and length > HEADER_SIZE):
            assert batch.damage, f"cut at {length}: nobody was told"
            assert not found
        else:
            written = max(0, (length - HEADER_SIZE) // 64 - 2)  # block header, name
            assert found == complete[: written * 64], length


def test_every_third_byte_flipped(rows: Rows, identity: Identity, tmp_path: Path) -> None:
    path, content = whole_segment(tmp_path, identity, closed=True)
    [batch] = SpoolReader(tmp_path).poll()
    assert rows([batch]) == EXPECTED
    complete = spans(batch)
    chance = random.Random(0)
    file = os.open(path, os.O_RDWR)
    for position in range(0, len(content), 3):
        os.pwrite(file, bytes([content[position] ^ chance.randrange(1, 256)]), position)
        [batch] = SpoolReader(tmp_path).poll()
        found = spans(batch)
        assert found in (b"", complete), position
        assert batch.identity in (None, identity)
        assert batch.dropped == 0
        if position >= HEADER_SIZE:
            assert not found
            assert batch.damage[0].position == HEADER_SIZE
        os.pwrite(file, content[position : position + 1], position)
    os.close(file)


def test_a_damaged_block_does_not_take_the_others_with_it(
    rows: Rows, identity: Identity, tmp_path: Path
) -> None:
    recorder = open_recorder(tmp_path, identity)
    for step in range(5000):
        recorder.record_span("forward", step, step + 5, step)
    recorder.close()
    [path] = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[HEADER_SIZE + 2 * BLOCK_SIZE + 4000] ^= 1
    path.write_bytes(content)
    [batch] = SpoolReader(tmp_path).poll()
    assert [damage.position for damage in batch.damage] == [HEADER_SIZE + 2 * BLOCK_SIZE]
    steps = [row[4] for row in rows([batch])]
    assert steps == [*range(2 * 1023 - 1), *range(3 * 1023 - 1, 5000)]


def test_strange_files_in_a_spool_are_told(rows: Rows, identity: Identity, tmp_path: Path) -> None:
    (tmp_path / "a.seg").write_bytes(b"\0" * 100_000)
    (tmp_path / "b.seg").write_bytes(b"")
    (tmp_path / "c.txt").write_bytes(b"not ours")
    reader = SpoolReader(tmp_path)
    batches = reader.poll()
    assert [(batch.segment, len(batch.damage)) for batch in batches] == [("a.seg", 1), ("b.seg", 1)]
    assert reader.poll() == []


def test_a_newer_format_is_told_once_and_left_for_a_newer_reader(
    rows: Rows, identity: Identity, tmp_path: Path
) -> None:
    recorder = open_recorder(tmp_path, identity)
    recorder.record_span("forward", 1, 2, 3)
    recorder.close()
    [path] = tmp_path.iterdir()
    page = path.read_bytes()
    _, _, _, length, crc, _ = HEADER.unpack_from(page)
    newer = HEADER.pack(MAGIC, SCHEMA_VERSION + 1, 0, length, crc, 0)
    path.write_bytes(newer + page[HEADER.size :])
    with pytest.raises(DataError, match="newer opsuite wrote") as caught:
        read_header(path, path.read_bytes())
    assert "upgrade opsuite" in caught.value.remedy
    reader = SpoolReader(tmp_path)
    [batch] = reader.poll()
    assert batch.identity is None
    assert "upgrade opsuite" in batch.damage[0].what
    assert reader.poll() == []
    assert not batch.position.finished, "it must not be taken for read, and deleted"
    path.write_bytes(page)  # what a newer reader makes of it
    assert rows(SpoolReader(tmp_path, {path.name: batch.position}).poll()) == [
        (Kind.SPAN, "forward", 1, 2, 3)
    ]


def test_segments_that_disappear_are_no_error(
    rows: Rows, identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector deletes what it has sealed, also between another's listing and opening."""
    recorder = open_recorder(tmp_path, identity)
    recorder.record_span("forward", 1, 2, 3)
    reader = SpoolReader(tmp_path)
    assert len(reader.poll()) == 1
    listed = os.listdir(tmp_path)  # noqa: PTH208 - as the reader does
    monkeypatch.setattr("collectors.spool.os.listdir", lambda _: listed)
    recorder.record_span("forward", 2, 3, 4)
    (tmp_path / listed[0]).unlink()
    assert reader.poll() == []
    recorder.close()


def test_texts_that_are_read_in_pieces_are_whole(identity: Identity, tmp_path: Path) -> None:
    """A reader may come between any two records of a text, and go on later or as another one."""
    recorder = open_recorder(tmp_path, identity)
    texts = [f"{number} " + "é" * 40 * (number % 5) for number in range(600)]  # 3 blocks
    for text in texts:
        recorder.event("said", attributes={"text": text})
    recorder.close()
    [path] = tmp_path.iterdir()
    content = path.read_bytes()
    [batch] = SpoolReader(tmp_path).poll()
    used = batch.records["attributes"][kinds(batch.records) == Kind.EVENT]
    expected = [batch.names[number] for number in used.tolist()]
    chance = random.Random(1)
    for again in (False, True):
        reader, found, position = SpoolReader(tmp_path), [], Position()
        offset = HEADER_SIZE
        while not position.finished:
            # As if the writer had come so far and no further: blocks open, then all of it.
            offset = min(offset + 64 * chance.randrange(1, 40), len(content))
            path.write_bytes(content if offset == len(content) else opened(content, offset))
            if again:
                reader = SpoolReader(tmp_path, {path.name: position})
            for batch in reader.poll():
                position = batch.position
                used = batch.records["attributes"][kinds(batch.records) == Kind.EVENT]
                found += [batch.names.get(number, "") for number in used.tolist()]
        assert found == expected


def opened(content: bytes, offset: int) -> bytes:
    """A closed segment as it was when it had been written up to ``offset``."""
    page = bytearray(content[:HEADER_SIZE])
    page[32:52] = struct.pack("<QQI", 0, 2**64 - 1, 0)
    assert zlib.crc32(page[64 : 64 + HEADER.unpack_from(page)[3]]) == HEADER.unpack_from(page)[4]
    blocks = bytearray(content[HEADER_SIZE:offset]).ljust(len(content) - HEADER_SIZE, b"\0")
    last = max(0, offset - 1 - HEADER_SIZE) // BLOCK_SIZE * BLOCK_SIZE
    blocks[last : last + 64] = bytes(64)
    return bytes(page + blocks)
