"""Signs of progress of one rank, and how much it uses its processor while there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.board import LONG_WORK

if TYPE_CHECKING:
    from playbooks.hang.observation import Observation

BUSY_SHARE = 0.2
"""Of a core: who uses more is at work, or turns in circles."""
_MOVED_BYTES = 1_000_000
_MOVED_WITHIN_S = 5.0  # what trickles (a log, telemetry) is no progress


class Motion:
    """What one rank has done since it last moved; times are the watch's own."""

    def __init__(self, seen: Observation, now_s: float) -> None:
        self.moved_s = now_s
        self.seen = seen
        self._cpu_s = seen.cpu_s
        self._io = (seen.io_bytes, now_s)

    def look(self, seen: Observation, now_s: float, *, files: bool = True) -> bool:
        """Whether the rank has moved since the last look; ``files``: reading and writing counts."""
        ticked = _ticks(seen) != _ticks(self.seen)
        moved = self._has_read(seen, now_s) and files
        self.seen = seen
        if ticked or moved:
            self.moved_s = now_s
            self._cpu_s = seen.cpu_s
        return ticked or moved

    def busy(self, now_s: float) -> bool | None:
        """Whether it has used its processor since it moved; None: not known."""
        silence_s = now_s - self.moved_s
        if self._cpu_s is None or self.seen.cpu_s is None or silence_s <= 0:
            return None
        return self.seen.cpu_s - self._cpu_s >= BUSY_SHARE * silence_s

    @property
    def works_long(self) -> bool:
        """Whether it says that it is in what may take minutes."""
        board = self.seen.board
        return (
            board is not None
            and board.collective is None
            and board.activity in LONG_WORK
            and not self.seen.stopped
        )

    @property
    def waits(self) -> bool:
        """Whether it says that it is in a collective."""
        return self.seen.board is not None and self.seen.board.collective is not None

    def _has_read(self, seen: Observation, now_s: float) -> bool:
        """Reads or writes of 1 MB within some seconds."""
        before, since_s = self._io
        if seen.io_bytes is None or before is None or seen.io_bytes < before:  # a child ended
            self._io = (seen.io_bytes, now_s)
            return False
        moved = seen.io_bytes - before >= _MOVED_BYTES
        if moved or now_s - since_s >= _MOVED_WITHIN_S:
            self._io = (seen.io_bytes, now_s)
        return moved


def _ticks(seen: Observation) -> int:
    return -1 if seen.board is None else seen.board.ticks
