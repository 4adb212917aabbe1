"""The segment file: preallocated, mapped, and readable whatever happens to its writer.

::

    header page (4096 bytes)   magic, schema version, state, dropped records, JSON, crc32
    block (65536 bytes)        64-byte block header, then 1023 records of 64 bytes
    block ...

A full block is *sealed*: its header gets ``magic | schema version | length | sequence | crc32``.
Of a sealed block all is taken if the checksum holds, and nothing otherwise; of an open one the
records whose commit marker is right. Space is allocated before it is mapped, so that a full disk
is an error here and never a SIGBUS in the trainer.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from collectors.record import RECORD, RECORD_SIZE, Kind, pack_span

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SCHEMA_VERSION = 1
HEADER_SIZE = 4096
BLOCK_SIZE = 64 * 1024
RECORDS_PER_BLOCK = BLOCK_SIZE // RECORD_SIZE - 1
FIRST_BLOCKS = 16
LARGEST_BLOCKS = 1024
SUFFIX = ".seg"

MAGIC = b"OPSUITE\x01"
BLOCK_MAGIC = 0x4B4C424F  # "OBLK"
CLOSED = 0x444C4353  # "SCLD"
HEADER = struct.Struct("<8sHHIII")  # magic, schema version, -, JSON length, JSON crc32, -
STATE = struct.Struct("<QQI")  # dropped, its complement, CLOSED or 0
STATE_AT = 32
JSON_AT = 64
_BLOCK_MAGIC = struct.Struct("<I")
MAGIC_SIZE = _BLOCK_MAGIC.size
BLOCK_HEADER = struct.Struct("<IHHIII")  # magic, schema version, -, length, sequence, crc32


def sealed_header(payload: bytes, sequence: int) -> bytes:
    """The header of a sealed block; its crc32 is of the block's place as well as of its records."""
    place = struct.pack("<III", SCHEMA_VERSION, len(payload), sequence)
    crc = zlib.crc32(payload, zlib.crc32(place))
    header = BLOCK_HEADER.pack(BLOCK_MAGIC, SCHEMA_VERSION, 0, len(payload), sequence, crc)
    return header.ljust(RECORD_SIZE, b"\0")


class Segment:
    """A segment that this process writes.

    Args:
        path: file to make; it appears under this name only when its header is whole.
        facts: what the header says (identity, pid, boot, clock anchor).
        blocks: how many blocks to allocate.

    Raises:
        OSError: no space, no permission.
    """

    def __init__(self, path: Path, facts: dict[str, Any], blocks: int) -> None:
        self.path = path
        self.size = HEADER_SIZE + blocks * BLOCK_SIZE
        header = _encode_header(facts)
        draft = path.with_suffix(".tmp")
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _allocate(descriptor, self.size)
            self.memory = mmap.mmap(descriptor, self.size)
            self.memory[: len(header)] = header
            self.set_dropped(0)
            draft.rename(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def first_slot(self, block: int) -> int:
        """File offset of the first record of ``block``."""
        return HEADER_SIZE + block * BLOCK_SIZE + RECORD_SIZE

    def block_end(self, offset: int) -> int:
        """File offset where the block that holds ``offset`` ends."""
        return offset + -(offset - HEADER_SIZE) % BLOCK_SIZE

    def free_slots(self, offset: int) -> int:
        """How many records fit from the slot at ``offset`` (or at a block's end) on."""
        end = self.block_end(offset)
        return (end - offset) // RECORD_SIZE + (self.size - end) // BLOCK_SIZE * RECORDS_PER_BLOCK

    def seal(self, end: int) -> None:
        """Seal the block whose records end at file offset ``end``.

        A slot whose record could not be written (a value of the wrong type) becomes a void one.
        """
        start = (end - HEADER_SIZE - 1) // BLOCK_SIZE * BLOCK_SIZE + HEADER_SIZE
        first = start + RECORD_SIZE
        payload = self.memory[first:end]
        if not (whole := committed(payload, first)).all():
            for index in np.flatnonzero(~whole).tolist():
                slot = first + index * RECORD_SIZE
                pack_span(self.memory, slot, Kind.VOID, 0, 0, 0, slot)
            payload = self.memory[first:end]
        sequence = (start - HEADER_SIZE) // BLOCK_SIZE
        header = sealed_header(payload, sequence)
        self.memory[start + MAGIC_SIZE : first] = header[MAGIC_SIZE:]
        # The magic comes last and in one store: a process that is killed here leaves it open.
        _BLOCK_MAGIC.pack_into(self.memory, start, BLOCK_MAGIC)

    def set_dropped(self, count: int, state: int = 0) -> None:
        """Say in the header how many records were dropped since this segment began."""
        STATE.pack_into(self.memory, STATE_AT, count, count ^ (2**64 - 1), state)

    def close(self, end: int, dropped: int) -> None:
        """Seal what is there, give back the space after ``end``, and mark the file closed."""
        if (end - HEADER_SIZE) % BLOCK_SIZE != RECORD_SIZE:  # not a block without a record
            self.seal(end)
        self.set_dropped(dropped, CLOSED)
        self.memory.close()
        os.truncate(self.path, end)


def committed(payload: bytes, offset: int) -> NDArray[np.bool_]:
    """Which of the records in ``payload``, that begins at file ``offset``, have their marker."""
    records = np.frombuffer(payload, dtype=RECORD)
    expected = np.arange(offset, offset + len(payload), RECORD_SIZE, dtype=np.uint32)
    found: NDArray[np.bool_] = records["marker"] == expected
    return found


def _encode_header(facts: dict[str, Any]) -> bytes:
    text = json.dumps(facts, separators=(",", ":")).encode()
    if len(text) > HEADER_SIZE - JSON_AT:
        raise OSError(errno.ENAMETOOLONG, "the identity does not fit into a segment's header")
    fixed = HEADER.pack(MAGIC, SCHEMA_VERSION, 0, len(text), zlib.crc32(text), 0)
    return fixed.ljust(JSON_AT, b"\0") + text


def _allocate(descriptor: int, size: int) -> None:
    """Reserve ``size`` bytes on the disk, so that stores into the mapping cannot fail."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    zeros = bytes(1 << 20)
    written = 0
    while written < size:
        written += os.pwrite(descriptor, zeros[: size - written], written)
