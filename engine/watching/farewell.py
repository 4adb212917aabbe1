"""How a watched process ends: well, by an error, or without a word."""

from __future__ import annotations

import atexit
import multiprocessing
import sys
import traceback
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from collectors.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from collectors.board import Board
    from collectors.recorder import Recorder
    from engine.watching.patches import Patches

_MOST_CHARACTERS = 2000  # the end of a traceback says most


class Farewell:
    """Writes on the board how the process ends, and records the error that ended it.

    Args:
        close: called at the end of the process, after the words are written.
    """

    def __init__(self, board: Board, recorder: Recorder, close: Callable[[], None]) -> None:
        self._board = board
        self._recorder = recorder
        self._close = close
        self._failed = False

    def install(self, patches: Patches) -> None:
        """Watch the end of the process."""
        patches.wrap(sys, "excepthook", self._watched)
        if multiprocessing.parent_process() is None:
            atexit.register(self._end)
            patches.add(lambda: atexit.unregister(self._end))
        else:  # children of multiprocessing, as of torch's mp.spawn, end without atexit
            finalizer = Finalize(None, self._end, exitpriority=0)
            patches.add(finalizer.cancel)

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(
            kind: type[BaseException], error: BaseException, trace: TracebackType | None
        ) -> object:
            self._fail(kind, error, trace)
            return function(kind, error, trace)

        return call

    def _fail(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        text = redact_text("".join(traceback.format_exception(kind, error, trace)))
        self._failed = True
        self._recorder.event(
            "rank.failed",
            attributes={"error": kind.__name__, "traceback": text[-_MOST_CHARACTERS:]},
        )
        self._board.end(well=False, last_words=text[-_MOST_CHARACTERS:])

    def _end(self) -> None:
        if not self._failed:
            self._board.end(well=True)
        self._close()
