"""Instances that are witnesses: keys and values are the tokens themselves, and are read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from engine.serving.instances.step import Run, Step

_PLACES = 8192  # tokens of the longest text, so that a token's number and place are one value
_NOTHING = -1


class WitnessError(AssertionError):
    """A request's keys and values are not its own."""


class Pools:
    """Of all instances."""

    def __init__(self) -> None:
        self._slots: dict[int, NDArray[np.int64]] = {}

    def gain(self, instance: int, slots: int) -> None:
        """With nothing in it."""
        self._slots[instance] = np.full(slots, _NOTHING)

    def begin(self, step: Step, texts: Mapping[int, Sequence[int]]) -> None:
        """What is copied, is; what is to be computed is anything as yet.

        Raises:
            WitnessError: what is cached is not the requests' own.
        """
        for copy in step.copies:
            self._of(copy.target)[:] = self._of(copy.source)
        self.check(step, texts)
        for part in step.parts:
            for run in part.keep:
                self._of(run)[:] = _NOTHING

    def end(self, step: Step, texts: Mapping[int, Sequence[int]]) -> None:
        """All is computed, and what was cached is still there: WitnessError otherwise."""
        self.check(step, texts)
        for part in step.parts:
            text = texts[part.number]
            if tuple(text[part.first : part.first + len(part.tokens)]) != part.tokens:
                raise WitnessError(f"request {part.number} computes tokens that are not its own")
            for run in part.keep:
                self._of(run)[:] = _own(text, run)

    def check(self, step: Step, texts: Mapping[int, Sequence[int]]) -> None:
        """WitnessError: something cached is another's."""
        for part in step.parts:
            place = 0
            for run in part.cached:
                if run.first != place or run.instance not in step.instances:
                    raise WitnessError(f"request {part.number} reads what is not there")
                if not np.array_equal(self._of(run), _own(texts[part.number], run)):
                    raise WitnessError(f"request {part.number} reads what is not its own")
                place = run.end
            if place != part.first:
                raise WitnessError(f"request {part.number} does not read all that is cached")

    def _of(self, run: Run) -> NDArray[np.int64]:
        return self._slots[run.instance][run.slot : run.slot + run.tokens]


def _own(text: Sequence[int], run: Run) -> NDArray[np.int64]:
    tokens = np.asarray(text[run.first : run.end], dtype=np.int64)
    return tokens * _PLACES + np.arange(run.first, run.end)
