"""The context manager that times a span: the hot path of recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.clock import now_ns
from collectors.record import RECORD_SIZE, pack_span

if TYPE_CHECKING:
    from types import TracebackType

    from collectors.spool_recorder import SpoolRecorder


class Span:
    """Times its body. Every look-up here is paid by the trainer, hence no lock and no new object.

    Between the look-up of the name and the end of ``pack_span`` no other thread, handler or
    finalizer runs (:class:`.SpoolRecorder`), so a slot taken here is written before anyone looks.
    Names that are not recorded (:mod:`.level`) are in no segment's ``heads``: the recorder finds
    that out, and those that are recorded pay nothing for it.
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
        try:
            head = recorder.heads[self.name]
        except KeyError:
            head = 0
        slot = recorder.offset
        if head and slot < recorder.limit:
            recorder.offset = slot + RECORD_SIZE
            pack_span(recorder.memory, slot, head, self.start_ns, end_ns, self.step, slot)
        else:
            recorder.record_span(self.name, self.start_ns, end_ns, self.step)
        recorder.idle.append(self)
