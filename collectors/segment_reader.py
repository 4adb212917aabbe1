"""Reading a segment while it is written, after its writer died, and when it is damaged."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from collectors.errors import DataError
from collectors.record import RECORD, RECORD_SIZE, Kind, kinds
from collectors.segment import (
    BLOCK_HEADER,
    BLOCK_SIZE,
    CLOSED,
    HEADER,
    HEADER_SIZE,
    JSON_AT,
    MAGIC,
    MAGIC_SIZE,
    SCHEMA_VERSION,
    STATE,
    STATE_AT,
    committed,
    sealed_header,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from collectors.record import Records


BLOCKS_A_READING = 256


class NewerSegment(DataError):  # noqa: N818 - named for what it is
    """A segment whose format this version does not know yet; nothing is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """A segment's first page.

    Attributes:
        facts: identity, process, pid, boot and clock anchor of the writer.
        closed: the writer ended it in order.
        dropped: how many records the writer had no space for; None where that is damaged.
    """

    facts: dict[str, Any]
    closed: bool
    dropped: int | None


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A stretch of a segment that was left out.

    Attributes:
        position: where it begins in the file.
        what: what is wrong with it.
    """

    position: int
    what: str


@dataclass(kw_only=True)
class Reading:
    """What one pass over a segment gave.

    Attributes:
        position: how far it went.
        more: there is more, that was not read for its size.
    """

    position: int
    more: bool = False
    records: list[Records] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)


def read_header(path: Path, page: bytes) -> Header:
    """Decode the first page; DataError where it is not one of ours, or damaged."""
    if len(page) < HEADER_SIZE:
        raise DataError("the segment's header is cut off", where=str(path))
    magic, version, _, length, crc, _ = HEADER.unpack_from(page)
    if magic != MAGIC or not version:
        raise DataError("not a segment", where=str(path))
    if version > SCHEMA_VERSION:
        raise NewerSegment(
            f"a newer opsuite wrote this segment: format {version}, and this one reads up to "
            f"{SCHEMA_VERSION}",
            where=str(path),
            remedy="upgrade opsuite where it is read",
        )
    text = page[JSON_AT : JSON_AT + length]
    if length > HEADER_SIZE - JSON_AT or zlib.crc32(text) != crc:
        raise DataError("the segment's header is damaged", where=str(path))
    dropped, complement, state = STATE.unpack_from(page, STATE_AT)
    whole = dropped ^ complement == 2**64 - 1
    return Header(
        facts=json.loads(text), closed=state == CLOSED, dropped=dropped if whole else None
    )


def read_records(descriptor: int, position: int, *, finished: bool) -> Reading:
    """Take the records from ``position`` (a file offset; 0 = all) on, of at most 256 blocks.

    ``finished`` says that nothing more will be written: then a slot without its marker is passed
    over. Otherwise it is where the next pass begins.
    """
    size = os.fstat(descriptor).st_size
    reading = Reading(position=max(position, HEADER_SIZE))
    first = (reading.position - HEADER_SIZE) // BLOCK_SIZE
    blocks = -(-(size - HEADER_SIZE) // BLOCK_SIZE)
    reading.more = blocks > first + BLOCKS_A_READING
    for index in range(first, min(blocks, first + BLOCKS_A_READING)):
        start = HEADER_SIZE + index * BLOCK_SIZE
        records, whole = _read_block(descriptor, index, finished, reading.damage)
        skipped = max(0, (reading.position - start) // RECORD_SIZE - 1)
        reading.records.append(_real(records[skipped:]))
        if not whole:
            reading.position = start + RECORD_SIZE * (1 + len(records))
            reading.more = False
            break
        reading.position = start + BLOCK_SIZE
    return reading


def _real(records: Records) -> Records:
    void = kinds(records) == Kind.VOID
    return records[~void] if void.any() else records


def _read_block(
    descriptor: int, index: int, finished: bool, damage: list[Damage]
) -> tuple[Records, bool]:
    """The records of one block from its beginning, and whether it will have no more."""
    start = HEADER_SIZE + index * BLOCK_SIZE
    for last in (False, True):
        data = os.pread(descriptor, BLOCK_SIZE, start)
        header, payload = data[:RECORD_SIZE], data[RECORD_SIZE:]
        if not any(header[:MAGIC_SIZE]):
            return _open_records(payload, start + RECORD_SIZE, finished)
        if (length := _sealed_length(header, payload, index)) is not None:
            return np.frombuffer(payload[:length], dtype=RECORD), True
        if last or finished:  # not only sealed while it was being read
            damage.append(Damage(position=start, what="a block's checksum does not match"))
            break
    return np.empty(0, dtype=RECORD), True


def _sealed_length(header: bytes, payload: bytes, index: int) -> int | None:
    if len(header) < RECORD_SIZE:
        return None
    length = BLOCK_HEADER.unpack_from(header)[3]
    if length > len(payload) or length % RECORD_SIZE:
        return None
    return length if header == sealed_header(payload[:length], index) else None


def _open_records(payload: bytes, offset: int, finished: bool) -> tuple[Records, bool]:
    payload = payload[: len(payload) // RECORD_SIZE * RECORD_SIZE]
    records = np.frombuffer(payload, dtype=RECORD)
    good = committed(payload, offset)
    if finished:
        # Slots keep their places, so that a position inside of the block stays right.
        kept = records.copy()
        kept[~good] = np.zeros((), dtype=RECORD)
        return kept, True
    count = len(good) if good.all() else int(np.argmin(good))
    return records[:count], count * RECORD_SIZE == BLOCK_SIZE - RECORD_SIZE


def blocks_before(descriptor: int, position: int) -> Iterator[Records]:
    """The records before ``position``, for the texts that they define."""
    for index in range(max(0, -(-(position - HEADER_SIZE) // BLOCK_SIZE))):
        slots = (position - HEADER_SIZE - index * BLOCK_SIZE) // RECORD_SIZE - 1
        yield _read_block(descriptor, index, True, [])[0][: max(0, slots)]
