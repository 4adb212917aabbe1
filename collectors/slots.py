"""Slots for records: in which segment the next one goes, under which names, or that it is dropped.

The half of the recorder that is not on the hot path. A spool or a disk that fills up never raises
here: records are dropped, the cheap ones first (:mod:`.spool_room`), counted in the segment's
header, and told by samples ``opsuite.dropped.<level>`` as soon as there is space for these.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from collectors.clock import Anchor, boot_id, now_ns, process_space
from collectors.level import Level, level_of
from collectors.record import (
    RECORD_SIZE,
    Kind,
    encode_text,
    head,
    pack_define,
    pack_point,
    parts_of,
    split_text,
)
from collectors.segment import SUFFIX, Segment
from collectors.spool_room import Room, cap_of_rank, look

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.recorder import Identity

DROPPED = "opsuite.dropped"
_RETRY_NS = 1_000_000_000
_SPARE_SLOTS = 64  # for what finalizers record while a segment's names are being defined
_TO_SAMPLE = Kind.SAMPLE - Kind.SPAN


class _SegmentFull(Exception):  # noqa: N818 - caught where a new one is begun
    """There is no block left."""


class _CapReached(OSError):  # noqa: N818 - caught where recording begins
    """The rank's segments fill its part of the cap."""


class Slots:
    """Hands out slots of segments; safe under threads, signal handlers, finalizers and ``fork``.

    ``offset`` is the next free slot and ``limit`` the end of its block; a process that has no
    segment yet (a forked child) has both at 0, and its first record opens one. ``heads`` are the
    first fields of spans, by name, for the names that the segment defines.

    Spans take their slot without the lock (:class:`.Span`), all else with it. A slot is taken by
    ``if offset < limit: slot = offset; offset = slot + RECORD_SIZE``, with nothing in between:
    CPython changes threads and runs signal handlers only where a call ends or a loop jumps back.

    Args:
        level: the highest level that is recorded.
        cap_bytes: what the segments of this rank may take together.
    """

    def __init__(self, spool: Path, identity: Identity, level: Level, cap_bytes: int) -> None:
        self._spool = spool
        self._identity = identity
        self._level = level
        self._cap_bytes = cap_of_rank(cap_bytes, identity.world_size)
        self._start()
        with suppress(_CapReached):  # recording begins when the collector has made room
            self._open_segment()

    def _start(self) -> None:
        """Start as a process of its own, with nothing recorded."""
        self.lock = threading.RLock()
        self.offset = 0
        self.limit = 0
        self.memory: Any = bytearray()
        self.heads: dict[str, int] = {}
        self._process = f"{_label(self._identity)}-{os.getpid()}-{os.urandom(4).hex()}"
        self._segment: Segment | None = None
        self._opened = 0
        self._texts = 0
        self._dropped = 0
        self._untold = [0] * len(Level)
        self._refused: frozenset[Level] = frozenset()
        self._retry_ns = 0
        self._look_ns = 0
        self._closed = False
        self._preparing = False

    def _take(self, name: str, group: str | None = None, attributes: str | None = None) -> int:
        """Take a slot of a segment in which ``name`` and the texts are defined; 0 = drop it.

        Texts of attributes are not kept in memory: the one just defined has id ``self._texts``.
        """
        known = name in self.heads and (group is None or group in self.heads)
        if known and attributes is None and self.offset < self.limit:
            slot = self.offset
            self.offset = slot + RECORD_SIZE
            return slot
        level = level_of(name)
        if self._closed or level > self._level:
            return 0
        if self._preparing:  # a finalizer that records, in the middle of this very function
            return self._drop(level)
        self._preparing = True
        try:
            names = [name] if group is None else [name, group]
            return self._prepare(names, level, attributes) if self._admits(level) else 0
        finally:
            self._preparing = False

    def _prepare(self, names: list[str], level: Level, attributes: str | None) -> int:
        """Define what is missing, in the next segment if there is no room in this one."""
        extra = [] if attributes is None else [encode_text(attributes)]
        for _ in range(3):
            missing = {text: encode_text(text) for text in names if text not in self.heads}
            slots = sum(parts_of(text) for text in [*missing.values(), *extra])
            with suppress(_SegmentFull):  # spans of other threads may take what was free
                if self._have_room(slots + 1):
                    for text, encoded in missing.items():
                        self.heads[text] = head(Kind.SPAN, self._define(encoded), level=level)
                    for encoded in extra:
                        self._define(encoded)
                    return self._next_slot()
            if not self._next_segment() or level in self._refused:
                break
        return self._drop(level)

    def _have_room(self, slots: int) -> bool:
        if self._segment is None:
            return False
        return self._segment.free_slots(self.offset) >= slots + _SPARE_SLOTS

    def _define(self, encoded: bytes) -> int:
        self._texts += 1
        identifier = self._texts
        for part, piece in enumerate(split_text(encoded)):
            slot = self._next_slot()
            packed = head(Kind.DEFINE, identifier, part=part)
            pack_define(self.memory, slot, packed, piece, len(encoded), slot)
        return identifier

    def _next_slot(self) -> int:
        """Take a slot of this segment, in the next block where this one is full."""
        while True:
            if self.offset < self.limit:
                slot = self.offset
                self.offset = slot + RECORD_SIZE
                return slot
            assert self._segment is not None
            if not self._segment.free_slots(self.offset):
                raise _SegmentFull
            self._segment.seal(self.offset)
            self.offset += RECORD_SIZE
            self.limit = self._segment.block_end(self.offset)  # last: it lets spans in

    # -- segments, and what is dropped where they may not be ---------------------------------------

    def _next_segment(self) -> bool:
        if now_ns() < self._retry_ns:
            return False
        try:
            self._open_segment()
        except OSError:
            # A full disk must not stop the trainer: drop, count, and try again in a second.
            self._retry_ns = now_ns() + _RETRY_NS
            return False
        self._tell_drops()
        return True

    def _open_segment(self) -> None:
        room = self._room()
        blocks = room.blocks(self._opened)
        if not blocks and room.capped:
            raise _CapReached
        if not blocks:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._spool))
        name = f"{self._process}.{self._opened:05d}{SUFFIX}"
        anchor = Anchor.take()
        facts = {
            **asdict(self._identity),
            "process": self._process,
            "pid": os.getpid(),
            "boot_id": boot_id(),
            "process_space": process_space(),
            "wall_ns": anchor.wall_ns,
            "monotonic_ns": anchor.monotonic_ns,
        }
        segment = Segment(self._spool / name, facts, blocks)
        self._close_segment()
        segment.set_dropped(self._dropped)  # what was dropped while there was no segment
        self._segment = segment
        self.memory = segment.memory
        self._opened += 1
        self._refused = room.refused()
        self.offset = segment.first_slot(0)
        self.limit = segment.block_end(self.offset)

    def _room(self, but: Segment | None = None) -> Room:
        """The room beside the segments that are there, ``but`` for one that is being filled."""
        room = look(self._spool, f"{_label(self._identity)}-", self._cap_bytes)
        return room if but is None else replace(room, used=max(0, room.used - but.size))

    def _close_segment(self) -> None:
        segment = self._segment
        if segment is None:
            return
        self.limit = 0  # first: it keeps spans out
        end, dropped = self.offset, self._dropped
        self._segment = None
        self.offset = self._dropped = self._texts = 0
        self.heads = {}
        # The directory may have been removed with the run: nobody misses the file then.
        with suppress(FileNotFoundError):
            segment.close(end, dropped)

    def _admits(self, level: Level) -> bool:
        """Whether ``level`` is recorded while the spool is as full as it is; else it is dropped."""
        if level not in self._refused:
            return True
        look_again = now_ns() >= self._look_ns
        if look_again:
            self._look_ns = now_ns() + _RETRY_NS
            with suppress(OSError):  # then things are as they were
                self._refused = self._room(but=self._segment).refused()
        if level in self._refused:
            self._drop(level)
        if look_again:
            self._tell_drops()
        return level not in self._refused

    def _drop(self, level: Level) -> int:
        """Count a record that is not recorded."""
        self._dropped += 1
        self._untold[level] += 1
        if self._segment is not None:
            self._segment.set_dropped(self._dropped)
        return 0

    def _tell_drops(self) -> None:
        """Record how many records of each level were dropped since this was last told."""
        for level in Level:
            if not self._untold[level] or not self._have_room(2):
                continue
            name = f"{DROPPED}.{level.name.lower()}"
            with suppress(_SegmentFull):  # it is told later
                if name not in self.heads:
                    self.heads[name] = head(Kind.SPAN, self._define(encode_text(name)))
                slot, count = self._next_slot(), self._untold[level]
                self._untold[level] -= count
                packed = self.heads[name] + _TO_SAMPLE
                pack_point(self.memory, slot, packed, now_ns(), -1, count, 0, slot)

    def close(self) -> None:
        with self.lock:
            if not self._closed:
                self._preparing = True
                self._tell_drops()
                self._closed = True
                self._close_segment()


def _label(identity: Identity) -> str:
    return identity.role if identity.rank is None else f"{identity.role}{identity.rank}"
