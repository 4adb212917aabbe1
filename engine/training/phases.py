"""The phases of a step: what a rank does, recorded as spans and told on its board."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from collectors.board import Activity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.recorder import Recorder
    from engine.groups.group import CurrentStep


class Phases:
    """Opens phases. A phase that a step enters several times is the sum of these times."""

    def __init__(self, recorder: Recorder, current_step: CurrentStep) -> None:
        self._recorder = recorder
        self._current_step = current_step

    @contextmanager
    def __call__(self, activity: Activity, step: int) -> Iterator[None]:
        """The body is ``activity``."""
        board = self._current_step.board
        if board is not None:
            board.activity(activity)
        with self._recorder.span(activity.name.lower(), step):
            yield
        if board is not None:
            board.activity(Activity.NONE)
