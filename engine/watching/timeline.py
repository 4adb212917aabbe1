"""The steps of a watched rank, cut into phases without gaps.

A step ends when the optimizer has stepped. What lies between two phases that a hook sees (data,
forward, backward, ...) is a phase of its own, "other": a rank that is slow there is slow too.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from collectors.board import Activity
from collectors.clock import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from collectors.board import Board
    from collectors.recorder import Recorder
    from engine.device_spans import DeviceSpans

OTHER = "other"
_ON_DEVICE = (Activity.FORWARD, Activity.BACKWARD, Activity.OPTIMIZER)
_LEAST_GAP_NS = 20_000  # hooks themselves take some microseconds


class Timeline:
    """Told of phases as they begin and end, in the thread that trains; others are passed over.

    Phases inside of a phase belong to it.

    Args:
        on_step: called after each step, with its number.
        clock: monotonic nanoseconds.

    Attributes:
        step: the number of the step that goes on, from 1.
        device: measures what the phases take on a device, where the model is on one.
    """

    def __init__(
        self,
        recorder: Recorder,
        board: Board,
        on_step: Callable[[int], None],
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self.step = 1
        self.device: DeviceSpans | None = None
        self._measured: DeviceSpans | None = None
        self._recorder = recorder
        self._board = board
        self._on_step = on_step
        self._clock = clock
        self._thread = threading.get_ident()
        self._done = 0
        self._depth = 0
        self._begun_ns = 0
        self._phase_ns = 0
        self._activity = Activity.NONE
        self._cut_ns = 0  # up to here the step is cut into phases

    def here(self) -> bool:
        """Whether the caller is the thread that trains."""
        return threading.get_ident() == self._thread

    def begin(self, activity: Activity) -> None:
        """A phase begins; each needs its :meth:`end`."""
        if not self.here():
            return
        self._depth += 1
        if self._depth > 1:
            self._board.tick()
            return
        now = self._clock()
        if not self._begun_ns:
            self._start_step(now)
        elif now - self._cut_ns > _LEAST_GAP_NS:
            self._recorder.record_span(OTHER, self._cut_ns, now, self.step)
        if self.device is not None and activity in _ON_DEVICE:
            self.device.begin(activity.name.lower(), self.step)
            self._measured = self.device
        self._phase_ns = now
        self._activity = activity
        self._board.activity(activity)

    def end(self, activity: Activity) -> None:
        """The phase has ended."""
        if not self.here() or not self._depth:
            return
        self._depth -= 1
        if self._depth:
            self._board.tick()
            return
        if self._measured is not None:
            self._measured.end()
            self._measured = None
        self._cut_ns = self._clock()
        self._recorder.record_span(activity.name.lower(), self._phase_ns, self._cut_ns, self.step)
        if activity is not Activity.CHECKPOINT:  # its writing may go on behind our back
            self._board.activity(Activity.NONE)

    def interrupt(self, activity: Activity) -> None:
        """Something long goes on inside of the phase, and belongs to it."""
        if self.here():
            self._board.activity(activity)

    def resume(self) -> None:
        """It has ended; the phase goes on."""
        if self.here():
            self._board.activity(self._activity if self._depth else Activity.NONE)

    def complete_step(self) -> None:
        """The optimizer has stepped."""
        if not self.here():
            return
        now = self._clock()
        if self._begun_ns:
            if now - self._cut_ns > _LEAST_GAP_NS:
                self._recorder.record_span(OTHER, self._cut_ns, now, self.step)
            self._recorder.record_span("step", self._begun_ns, now, self.step)
            self._on_step(self.step)
        self._done += 1
        self.step += 1
        self._start_step(now)

    def number(self, step: int) -> None:
        """The step that goes on has that number: the trainer knows better, as after a resume."""
        if step != self.step and self.here():
            self.step = step
            self._board.step(step, self._done)

    def _start_step(self, now: int) -> None:
        self._begun_ns = self._cut_ns = now
        self._board.step(self.step, self._done)
