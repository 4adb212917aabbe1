"""What an instance tells the others by numbers in its segment, which only grow."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from engine.peers.shared import publish

if TYPE_CHECKING:
    import numpy as np

_PER_LAYER = 64  # more than instances whose questions one answers


class Signal(IntEnum):
    """By channels of a segment. What is not an epoch is told before one that lets it be read."""

    BEGUN = 0  # the number of a step that is begun: all before is written
    COPIED = 1  # the number of a step whose copies are read
    STRIPE = 2  # epoch of the latest stripe that is given
    QUESTIONS = 3
    ANSWERS = 4
    LEFT = 5  # the number of a step that is ended or aborted
    ABORTED = 6  # the number of a step that is aborted
    LOST = 7  # no epoch: on whose account
    STAGE = 8  # no epoch: descriptor of the segment with what is given
    STAGE_BYTES = 9  # no epoch: its size


_OF_STEPS = (Signal.BEGUN, Signal.COPIED)
_OF_LAYERS = (Signal.STRIPE, Signal.QUESTIONS, Signal.ANSWERS)


class Epochs:
    """Of one step: they follow from its number, so nobody counts.

    Args:
        layers: of the model.
    """

    def __init__(self, step: int, layers: int) -> None:
        self._step = step
        self._first = step * (layers + 1) * _PER_LAYER
        self._end = self._first + layers * _PER_LAYER

    def of(self, layer: int, answered: int = 0) -> int:
        """Of a layer; of answers: after so many masters were answered."""
        return self._first + layer * _PER_LAYER + answered

    def abort(self, signals: np.ndarray, lost: int) -> None:
        """All who wait for this instance are freed, and find out why."""
        publish(signals, Signal.LOST, lost)
        publish(signals, Signal.ABORTED, self._step)
        for each in _OF_STEPS:
            publish(signals, each, self._step)
        for each in _OF_LAYERS:
            publish(signals, each, self._end)
        publish(signals, Signal.LEFT, self._step)
