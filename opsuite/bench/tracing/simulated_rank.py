"""A rank that never ran: its records, made as arrays, in a real segment file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from collectors.record import (
    RECORD,
    RECORD_SIZE,
    Kind,
    encode_text,
    head,
    pack_define,
    split_text,
)
from collectors.segment import RECORDS_PER_BLOCK, SUFFIX, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from collectors.record import Records
    from collectors.recorder import Identity


@dataclass(frozen=True, kw_only=True)
class SimulatedRank:
    """Who a simulated process says that it is.

    Attributes:
        identity: rank, host and place in the mesh.
        key: key of the process; its segments are ``key.00000.seg`` and so on.
        pid, boot_id: of a process and a host that do not exist.
        wall_ns: what its monotonic clock's zero is on the wall.
    """

    identity: Identity
    key: str
    pid: int
    boot_id: str
    wall_ns: int

    def write(self, spool: Path, texts: Sequence[str], records: Records, *, number: int = 0) -> int:
        """Write the ``number``-th segment, closed; returns the bytes of the file.

        Args:
            spool: the run's spool directory.
            texts: what the records name; the first has id 1.
            records: array of :data:`collectors.record.RECORD` without markers, oldest first.
        """
        everything = np.concatenate([_definitions(texts), records])
        blocks = -(-len(everything) // RECORDS_PER_BLOCK)
        facts = {
            **asdict(self.identity),
            "process": self.key,
            "pid": self.pid,
            "boot_id": self.boot_id,
            "process_space": f"{self.boot_id}/simulated",
            "wall_ns": self.wall_ns + int(records["start_ns"][0]),
            "monotonic_ns": int(records["start_ns"][0]),
        }
        segment = Segment(spool / f"{self.key}.{number:05d}{SUFFIX}", facts, blocks)
        end = segment.first_slot(0)
        for block in range(blocks):
            start = segment.first_slot(block)
            part = everything[block * RECORDS_PER_BLOCK : (block + 1) * RECORDS_PER_BLOCK]
            end = start + len(part) * RECORD_SIZE
            part["marker"] = np.arange(start, end, RECORD_SIZE)
            segment.memory[start:end] = part.tobytes()
            if block + 1 < blocks or len(part) == RECORDS_PER_BLOCK:
                segment.seal(end)
        segment.close(end, 0)
        return end


def record_head(kind: Kind, text: int) -> int:
    """The head of records of ``kind`` whose name is the ``text``-th (from 1) of their segment."""
    return head(kind, text)


def _definitions(texts: Sequence[str]) -> Records:
    """The DEFINE records of all texts."""
    memory = bytearray()
    for identifier, text in enumerate(texts, 1):
        encoded = encode_text(text)
        for part, piece in enumerate(split_text(encoded)):
            at = len(memory)
            memory += bytes(RECORD_SIZE)
            packed = head(Kind.DEFINE, identifier, part=part)
            pack_define(memory, at, packed, piece, len(encoded), 0)
    return np.frombuffer(memory, dtype=RECORD)
