"""The 64-byte record: the one form of everything that is recorded.

========  ====  ============================================================
bytes     type  field
========  ====  ============================================================
0-8       u64   head: kind (8 bits), level (8), part of a text (16), name id (32)
8-16      i64   start_ns (spans, collectives) or the instant (samples, events)
16-24     i64   end_ns
24-32     i64   step, or an event's subject; -1 = none
32-40     i64   sequence number of a collective in its group
40-48     f64   value; a collective's size in bytes
48-52     u32   group: id of its name
52-56     u32   group size; 0 = membership unknown
56-60     u32   attributes: id of their JSON text; 0 = none
60-64     u32   commit marker: the slot's own offset in its file
========  ====  ============================================================

``struct`` stores the fields in order, so the marker is written last: a record of a process that was
killed counts only if its marker is right. A DEFINE record carries text in place of fields:
bytes 8-58 hold up to 50 bytes of UTF-8, bytes 58-60 the length of the whole text, and the part
number in the head says which 50 bytes these are.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from collectors.level import Level

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Records = NDArray[np.void]

RECORD_SIZE = 64
DEFINE_BYTES = 50
TEXT_LIMIT = 16 * 1024
_TRUNCATED = "…[truncated]"


class Kind(IntEnum):
    """What a record is of."""

    VOID = 0
    DEFINE = 1
    SPAN = 2
    COLLECTIVE = 3
    SAMPLE = 4
    EVENT = 5


RECORD = np.dtype(
    [
        ("head", "<u8"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("step", "<i8"),
        ("sequence", "<i8"),
        ("value", "<f8"),
        ("group", "<u4"),
        ("group_size", "<u4"),
        ("attributes", "<u4"),
        ("marker", "<u4"),
    ]
)
assert RECORD.itemsize == RECORD_SIZE
_DEFINE = np.dtype(
    [("head", "<u8"), ("text", f"V{DEFINE_BYTES}"), ("length", "<u2"), ("marker", "<u4")]
)

pack_span = struct.Struct("<Qqqq28xI").pack_into
"""(buffer, offset, head, start_ns, end_ns, step, marker)"""
pack_point = struct.Struct("<Qq8xq8xd8xII").pack_into
"""(buffer, offset, head, at_ns, step or subject, value, attributes, marker)"""
pack_collective = struct.Struct("<QqqqqdII4xI").pack_into
"""(buffer, offset, head, start_ns, end_ns, step, sequence, bytes, group, group_size, marker)"""
pack_define = struct.Struct(f"<Q{DEFINE_BYTES}sHI").pack_into
"""(buffer, offset, head, text, length, marker)"""


def head(kind: Kind, name: int, *, part: int = 0, level: Level = Level.ALWAYS) -> int:
    """Pack the first field of a record."""
    return kind | level << 8 | part << 16 | name << 32


def kinds(records: Records) -> NDArray[np.uint8]:
    """The kind of each record."""
    return (records["head"] & 0xFF).astype(np.uint8)


def name_ids(records: Records) -> NDArray[np.uint32]:
    """The name id of each record."""
    return (records["head"] >> 32).astype(np.uint32)


def encode_text(text: str) -> bytes:
    """UTF-8 of ``text``; one that is too long is cut, and says so at its end."""
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= TEXT_LIMIT:
        return encoded
    mark = _TRUNCATED.encode()
    kept = encoded[: TEXT_LIMIT - len(mark)].decode("utf-8", "ignore")
    return kept.encode() + mark


def parts_of(encoded: bytes) -> int:
    """How many DEFINE records carry this text (an empty one takes one)."""
    return max(1, -(-len(encoded) // DEFINE_BYTES))


def split_text(encoded: bytes) -> Iterator[bytes]:
    """Cut a text into what each of its DEFINE records carries."""
    for part in range(parts_of(encoded)):
        yield encoded[part * DEFINE_BYTES : (part + 1) * DEFINE_BYTES]


class Texts:
    """The texts of a segment, put together from its DEFINE records as they are read.

    Attributes:
        known: texts by id; one whose parts have not all been read yet is not among them.
    """

    def __init__(self) -> None:
        self.known: dict[int, str] = {}
        self._parts: dict[int, dict[int, bytes]] = {}

    def read(self, records: Records) -> None:
        """Take the DEFINE records among ``records``; others are passed over."""
        chosen = records[kinds(records) == Kind.DEFINE].view(_DEFINE)
        for packed, text, length, _ in chosen.tolist():
            identifier, part = packed >> 32, packed >> 16 & 0xFFFF
            if length <= DEFINE_BYTES:
                self.known[identifier] = text[:length].decode("utf-8", "replace")
                continue
            parts = self._parts.setdefault(identifier, {})
            parts[part] = text
            if len(parts) == -(-length // DEFINE_BYTES):
                del self._parts[identifier]
                joined = b"".join(parts[index] for index in sorted(parts))
                self.known[identifier] = joined[:length].decode("utf-8", "replace")

    def forget(self, records: Records) -> None:
        """Give up the attributes of ``records``: their texts are used once."""
        used = records["attributes"][kinds(records) == Kind.EVENT]
        for identifier in used[used != 0].tolist():
            self.known.pop(identifier, None)
