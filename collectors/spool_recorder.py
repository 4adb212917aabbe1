"""The recorder behind :func:`collectors.recorder.open_recorder`: under a microsecond a span.

Records go into mapped segment files, so whatever a call has recorded survives the process, however
it ends. A disk that fills up never raises here: records are dropped, counted in the segment's
header, and told by a sample ``opsuite.dropped`` when there is space again.
"""

from __future__ import annotations

import json
import math
import os
import threading
import weakref
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from collectors.clock import Anchor, boot_id, now_ns, process_space
from collectors.record import (
    RECORD_SIZE,
    Kind,
    encode_text,
    head,
    pack_collective,
    pack_define,
    pack_point,
    pack_span,
    parts_of,
    split_text,
)
from collectors.segment import FIRST_BLOCKS, LARGEST_BLOCKS, SUFFIX, Segment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType

    from collectors.recorder import Identity

DROPPED = "opsuite.dropped"
_RETRY_NS = 1_000_000_000
_SPARE_SLOTS = 64  # for what finalizers record while a segment's names are being defined
_TO_SAMPLE = Kind.SAMPLE - Kind.SPAN
_TO_EVENT = Kind.EVENT - Kind.SPAN
_TO_COLLECTIVE = Kind.COLLECTIVE - Kind.SPAN


class _SegmentFull(Exception):  # noqa: N818 - caught where a new one is begun
    """There is no block left."""


class SpoolRecorder:
    """Writes segments; safe under threads, signal handlers, finalizers and ``fork``.

    ``offset`` is the next free slot and ``limit`` the end of its block; a process that has no
    segment yet (a forked child) has both at 0, and its first record opens one.

    Spans take their slot without the lock (:class:`_Span`), all else with it. A slot is taken by
    ``if offset < limit: slot = offset; offset = slot + RECORD_SIZE``, with nothing in between:
    CPython changes threads and runs signal handlers only where a call ends or a loop jumps back.
    """

    def __init__(self, spool: Path, identity: Identity) -> None:
        self._spool = spool
        self._identity = identity
        self._reset()
        self._open_segment()
        _OPEN.add(self)

    def _reset(self) -> None:
        """Start as a process of its own, with nothing recorded."""
        self.lock = threading.RLock()
        self.offset = 0
        self.limit = 0
        self.memory: Any = bytearray()
        self.heads: dict[str, int] = {}
        self.idle: list[_Span] = []
        self._process = f"{_label(self._identity)}-{os.getpid()}-{os.urandom(4).hex()}"
        self._segment: Segment | None = None
        self._opened = 0
        self._texts = 0
        self._dropped = 0
        self._untold = 0
        self._retry_ns = 0
        self._closed = False
        self._preparing = False

    # -- recording ------------------------------------------------------------------------------

    def span(self, name: str, step: int = -1) -> AbstractContextManager[None]:
        try:
            span = self.idle.pop()
        except IndexError:
            span = _Span(self)
        span.name = name
        span.step = step
        return span

    def record_span(self, name: str, start_ns: int, end_ns: int, step: int = -1) -> None:
        with self.lock:
            if slot := self._take(name):
                pack_span(self.memory, slot, self.heads[name], start_ns, end_ns, step, slot)

    def collective(
        self,
        name: str,
        *,
        group: str,
        group_size: int,
        sequence: int,
        size_bytes: int,
        start_ns: int,
        end_ns: int,
        step: int = -1,
    ) -> None:
        with self.lock:
            if slot := self._take(name, group):
                packed = self.heads[name] + _TO_COLLECTIVE
                fields = (start_ns, end_ns, step, sequence, size_bytes, self.heads[group] >> 32)
                pack_collective(self.memory, slot, packed, *fields, group_size, slot)

    def sample(self, name: str, value: float, step: int = -1) -> None:
        at_ns = now_ns()
        with self.lock:
            if slot := self._take(name):
                packed = self.heads[name] + _TO_SAMPLE
                pack_point(self.memory, slot, packed, at_ns, step, value, 0, slot)

    def event(
        self,
        name: str,
        *,
        subject: int = -1,
        value: float = math.nan,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        at_ns = now_ns()
        text = json.dumps(attributes, separators=(",", ":"), default=str) if attributes else None
        with self.lock:
            if slot := self._take(name, attributes=text):
                defined = 0 if text is None else self._texts
                packed = self.heads[name] + _TO_EVENT
                pack_point(self.memory, slot, packed, at_ns, subject, value, defined, slot)

    # -- room, names, segments ------------------------------------------------------------------

    def _take(self, name: str, group: str | None = None, attributes: str | None = None) -> int:
        """Take a slot of a segment in which ``name`` and the texts are defined; 0 = drop it.

        Texts of attributes are not kept in memory: the one just defined has id ``self._texts``.
        """
        known = name in self.heads and (group is None or group in self.heads)
        if known and attributes is None and self.offset < self.limit:
            slot = self.offset
            self.offset = slot + RECORD_SIZE
            return slot
        if self._preparing:  # a finalizer that records, in the middle of this very function
            self._drop()
            return 0
        self._preparing = True
        try:
            return self._prepare([name] if group is None else [name, group], attributes)
        finally:
            self._preparing = False

    def _prepare(self, names: list[str], attributes: str | None) -> int:
        """Define what is missing, in the next segment if there is no room in this one."""
        extra = [] if attributes is None else [encode_text(attributes)]
        for _ in range(3):
            missing = {text: encode_text(text) for text in names if text not in self.heads}
            slots = sum(parts_of(text) for text in [*missing.values(), *extra])
            with suppress(_SegmentFull):  # spans of other threads may take what was free
                if self._have_room(slots + 1):
                    for text, encoded in missing.items():
                        self.heads[text] = head(Kind.SPAN, self._define(encoded))
                    for encoded in extra:
                        self._define(encoded)
                    return self._next_slot()
            if not self._next_segment():
                break
        self._drop()
        return 0

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

    def _next_segment(self) -> bool:
        if self._closed or now_ns() < self._retry_ns:
            return False
        try:
            self._open_segment()
        except OSError:
            # A full disk must not stop the trainer: drop, count, and try again in a second.
            self._retry_ns = now_ns() + _RETRY_NS
            return False
        if self._untold:
            count, self._untold = self._untold, 0
            packed = head(Kind.SAMPLE, self._define(encode_text(DROPPED)))
            slot = self._next_slot()
            pack_point(self.memory, slot, packed, now_ns(), -1, count, 0, slot)
        return True

    def _open_segment(self) -> None:
        blocks = min(FIRST_BLOCKS << self._opened, LARGEST_BLOCKS)
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
        self._segment = segment
        self.memory = segment.memory
        self._opened += 1
        self.offset = segment.first_slot(0)
        self.limit = segment.block_end(self.offset)

    def _close_segment(self) -> None:
        self.limit = 0  # first: it keeps spans out
        segment, self._segment = self._segment, None
        end, dropped = self.offset, self._dropped
        self.offset = self.limit = self._dropped = self._texts = 0
        self.heads = {}
        if segment is not None:
            # The directory may have been removed with the run: nobody misses the file then.
            with suppress(FileNotFoundError):
                segment.close(end, dropped)

    def _drop(self) -> None:
        if self._closed:
            return
        self._dropped += 1
        self._untold += 1
        if self._segment is not None:
            self._segment.set_dropped(self._dropped)

    def close(self) -> None:
        with self.lock:
            if not self._closed:
                self._closed = True
                self._close_segment()
                _OPEN.discard(self)


class _Span:
    """Times its body. Every look-up here is paid by the trainer, hence no lock and no new object.

    Between the test of ``offset`` and the end of ``pack_span`` no other thread, handler or
    finalizer runs (:class:`SpoolRecorder`), so a slot taken here is written before anyone looks.
    """

    __slots__ = ("name", "recorder", "start_ns", "step")

    def __init__(self, recorder: SpoolRecorder) -> None:
        self.recorder = recorder
        self.name = ""
        self.step = -1

    def __enter__(self) -> None:
        self.start_ns = now_ns()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end_ns = now_ns()
        recorder = self.recorder
        heads = recorder.heads
        if self.name in heads and recorder.offset < recorder.limit:
            slot = recorder.offset
            recorder.offset = slot + RECORD_SIZE
            pack_span(
                recorder.memory, slot, heads[self.name], self.start_ns, end_ns, self.step, slot
            )
        else:
            recorder.record_span(self.name, self.start_ns, end_ns, self.step)
        recorder.idle.append(self)


def _label(identity: Identity) -> str:
    return identity.role if identity.rank is None else f"{identity.role}{identity.rank}"


_OPEN: weakref.WeakSet[SpoolRecorder] = weakref.WeakSet()


def _in_child() -> None:
    """A forked child writes segments of its own; the parent's mapping is not touched again."""
    for recorder in list(_OPEN):
        recorder._reset()


os.register_at_fork(after_in_child=_in_child)
