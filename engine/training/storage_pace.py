"""Whether checkpoints are written as fast as ever, or the storage stalls."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collectors.recorder import Recorder

EVENT = "checkpoint.slow"
_LEAST_S = 2.0  # shorter is no stall, however many times the usual
_FACTOR = 5.0  # times the usual
_SLOW_BYTES_PER_S = 10e6  # where nothing was written before: disks and networks write more
_REMEMBERED = 9


class StoragePace:
    """Of one rank's saves; tells of each that is slow with an event (``seconds``, ``usual_s``).

    Args:
        nbytes: what the rank writes each time.
    """

    def __init__(self, recorder: Recorder, nbytes: int) -> None:
        self._recorder = recorder
        self._first_s = nbytes / _SLOW_BYTES_PER_S
        self._usual: deque[float] = deque(maxlen=_REMEMBERED)

    def wrote(self, seconds: float, step: int) -> None:
        """A checkpoint has been written in the background."""
        usual = median(self._usual) if self._usual else self._first_s
        self._usual.append(seconds)
        if seconds >= max(_LEAST_S, _FACTOR * usual):
            self._tell(step, seconds=seconds, usual_s=usual)

    def waited(self, seconds: float, step: int) -> None:
        """Training waited for the checkpoint before, which should have been written long ago."""
        if seconds >= _LEAST_S:
            self._tell(step, waited_s=seconds)

    def _tell(self, step: int, **facts: float) -> None:
        self._recorder.event(EVENT, subject=step, attributes=facts)
