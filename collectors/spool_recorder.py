"""The recorder behind :func:`collectors.recorder.open_recorder`: under a microsecond a span.

Records go into mapped segment files, so whatever a call has recorded survives the process, however
it ends; where there is no space for them they are dropped and counted (:mod:`.slots`).
"""

from __future__ import annotations

import json
import math
import os
import sys
import weakref
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from collectors.clock import now_ns
from collectors.record import Kind, pack_collective, pack_point, pack_span
from collectors.slots import Slots
from collectors.span import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from collectors.level import Level
    from collectors.recorder import Identity

_TO_SAMPLE = Kind.SAMPLE - Kind.SPAN
_TO_EVENT = Kind.EVENT - Kind.SPAN
_TO_COLLECTIVE = Kind.COLLECTIVE - Kind.SPAN
_NOTHING = nullcontext()


class SpoolRecorder(Slots):
    """Writes segments; see :class:`collectors.recorder.Recorder`.

    In code that torch.compile traces nothing is recorded, and no graph is broken: each method asks
    ``compiling`` first.
    """

    def __init__(self, spool: Path, identity: Identity, level: Level, cap_bytes: int) -> None:
        super().__init__(spool, identity, level, cap_bytes)
        _OPEN.add(self)

    def _start(self) -> None:
        super()._start()
        self.idle: list[Span] = []
        self.compiling = _compile_check()

    # -- recording ------------------------------------------------------------------------------

    def span(self, name: str, step: int = -1) -> AbstractContextManager[None]:
        if self.compiling():
            return _NOTHING
        try:
            span = self.idle.pop()
        except IndexError:
            span = Span(self)
        span.name = name
        span.step = step
        return span

    def record_span(self, name: str, start_ns: int, end_ns: int, step: int = -1) -> None:
        if self.compiling():
            return
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
        if self.compiling():
            return
        with self.lock:
            if slot := self._take(name, group):
                packed = self.heads[name] + _TO_COLLECTIVE
                # No tuple is made here: a finalizer could run, and record, between slot and record.
                pack_collective(
                    self.memory,
                    slot,
                    packed,
                    start_ns,
                    end_ns,
                    step,
                    sequence,
                    size_bytes,
                    self.heads[group] >> 32,
                    group_size,
                    slot,
                )

    def sample(self, name: str, value: float, step: int = -1) -> None:
        if self.compiling():
            return
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
        if self.compiling():
            return
        at_ns = now_ns()
        text = json.dumps(attributes, separators=(",", ":"), default=str) if attributes else None
        with self.lock:
            if slot := self._take(name, attributes=text):
                defined = 0 if text is None else self._texts
                packed = self.heads[name] + _TO_EVENT
                pack_point(self.memory, slot, packed, at_ns, subject, value, defined, slot)

    def _prepare(self, names: list[str], level: Level, attributes: str | None) -> int:
        if self.compiling is bool:  # torch may have come since
            self.compiling = _compile_check()
        return super()._prepare(names, level, attributes)

    def close(self) -> None:
        super().close()
        _OPEN.discard(self)


def _compile_check() -> Callable[[], bool]:
    """Torch's word on whether torch.compile traces its caller, without importing torch for it.

    Dynamo takes that function for a constant, so nothing of a recorder gets into a graph, and
    nothing breaks one. Where there is no torch (yet), ``bool`` says no.
    """
    compiler = getattr(sys.modules.get("torch"), "compiler", None)
    check: Callable[[], bool] = getattr(compiler, "is_dynamo_compiling", bool)
    return check


_OPEN: weakref.WeakSet[SpoolRecorder] = weakref.WeakSet()


def _in_child() -> None:
    """A forked child writes segments of its own; the parent's mapping is not touched again."""
    for recorder in list(_OPEN):
        recorder._start()


os.register_at_fork(after_in_child=_in_child)
