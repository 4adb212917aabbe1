"""How much of a spool one rank may fill, and what is given up first as it fills."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.level import Level
from collectors.segment import BLOCK_SIZE, FIRST_BLOCKS, HEADER_SIZE, LARGEST_BLOCKS

if TYPE_CHECKING:
    from pathlib import Path

LEAST_CAP = 16 << 20  # less would make segments that last for a fraction of a second
_TAKEN_BELOW = {Level.SAMPLED: 0.8, Level.TRIGGER: 0.9, Level.ALWAYS: 1.0}
_SEGMENTS_A_CAP = 20  # so that the shares above are not a matter of one segment


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a spool had room for when it was looked at.

    Attributes:
        used: bytes of the rank's segments that lie there.
        limit: bytes that may lie there: the cap, or less where the disk has less left.
        capped: it is the cap that limits.
    """

    used: int
    limit: int
    capped: bool

    def refused(self) -> frozenset[Level]:
        """The levels that are dropped from here on."""
        return frozenset(
            level for level, share in _TAKEN_BELOW.items() if self.used >= share * self.limit
        )

    def blocks(self, opened: int) -> int:
        """How many blocks the next segment gets, after ``opened`` ones; 0 = there is no room."""
        wanted = min(FIRST_BLOCKS << min(opened, 16), LARGEST_BLOCKS)
        share = max(1, self.limit // _SEGMENTS_A_CAP // BLOCK_SIZE)
        left = (self.limit - self.used - HEADER_SIZE) // BLOCK_SIZE
        return max(0, min(wanted, share, left))


def cap_of_rank(cap_bytes: int, world_size: int) -> int:
    """A rank's part of the cap of a run; at least 16 MiB."""
    return max(LEAST_CAP, cap_bytes // max(1, world_size))


def look(spool: Path, prefix: str, cap_bytes: int) -> Room:
    """Measure the room for segments that begin with ``prefix``; OSError where one cannot look.

    The prefix is the rank's: what its forked children and its earlier attempts left there counts.
    Segments that the collector has taken over and deleted do not.
    """
    used = 0
    with os.scandir(spool) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                with suppress(FileNotFoundError):
                    used += entry.stat().st_size
    disk = os.statvfs(spool)
    # Some network file systems do not say how large they are.
    on_disk = used + disk.f_bavail * disk.f_frsize if disk.f_blocks else cap_bytes
    return Room(used=used, limit=min(cap_bytes, on_disk), capped=cap_bytes <= on_disk)
