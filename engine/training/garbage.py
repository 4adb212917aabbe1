"""Python's garbage collection at the ends of steps, the same on all ranks.

A collection that comes by itself comes at another moment on each rank, and every rank waits for the
one that has it: MegaScale traced decaying efficiency to that (sections 5.2 and 6.2).
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collectors.recorder import Recorder

_YOUNG, _ALL = 1, 2  # generations
_FULL_EVERY = 100  # steps


class CollectionAtStepEnds:
    """:class:`~engine.step_hook.StepHook` that has Python collect after steps only.

    Records what each freed; how long they take is counted with all that a step costs. Until closed,
    Python collects at no other time.
    """

    def __init__(self, recorder: Recorder, *, full_every: int = _FULL_EVERY) -> None:
        self._recorder = recorder
        self._full_every = full_every
        self._was_enabled = gc.isenabled()
        gc.collect()
        gc.freeze()  # modules, the model: nothing of them is ever garbage
        gc.disable()

    def on_step_begin(self, step: int) -> None:
        """Nothing: a step has just ended."""

    def on_step_end(self, step: int) -> None:
        """Collect what is young, and now and then everything."""
        freed = gc.collect(_YOUNG if step % self._full_every else _ALL)
        self._recorder.sample("gc_freed", freed, step)

    def close(self) -> None:
        """Leave collecting to Python again."""
        gc.unfreeze()
        if self._was_enabled:
            gc.enable()
