"""Optimizer steps, which are what a step of training ends with."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch.optim import optimizer as torch_optimizer

from collectors.board import Activity

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from torch.optim import Optimizer

    from engine.watching.patches import Patches
    from engine.watching.timeline import Timeline


class Optimizers:
    """Sees every optimizer of the process; a step of the main one completes a training step.

    Args:
        main: that optimizer (or a wrapper around it); None: the first that steps.
        on_first: called before the first step, with the optimizer.
    """

    def __init__(
        self, timeline: Timeline, main: Any, on_first: Callable[[Optimizer], None]
    ) -> None:
        self._timeline = timeline
        self._main = _innermost(main)
        self._on_first: Callable[[Optimizer], None] | None = on_first
        self._inside: Optimizer | None = None

    def install(self, patches: Patches) -> None:
        """Watch all optimizers, also those that are made later."""
        before = torch_optimizer.register_optimizer_step_pre_hook(self._before)
        after = torch_optimizer.register_optimizer_step_post_hook(self._after)
        patches.add(before.remove)
        patches.add(after.remove)

    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        if not self._timeline.here():
            return
        if self._inside is not None:
            if _is_stepping(self._inside, but=optimizer):
                return  # one optimizer inside of another
            self._timeline.end(Activity.OPTIMIZER)  # its step has raised, and was given up
        if self._on_first is not None:
            on_first, self._on_first = self._on_first, None
            with suppress(Exception):  # of the user's modules, which may be anything
                on_first(optimizer)
        self._inside = optimizer
        self._timeline.begin(Activity.OPTIMIZER)

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        if self._inside is not optimizer:
            return
        self._inside = None
        self._timeline.end(Activity.OPTIMIZER)
        if self._main is None:
            self._main = optimizer
        if optimizer is self._main:
            self._timeline.complete_step()


def _is_stepping(outer: Optimizer, *, but: Optimizer) -> bool:
    """Whether the caller is inside of a step of ``outer``, which is not that of ``but`` itself."""
    frame: FrameType | None = sys._getframe(2)
    while outer is not but and frame is not None:
        if frame.f_locals.get("self") is outer:
            return True
        frame = frame.f_back
    return False


def _innermost(optimizer: Any) -> Any:
    """The torch optimizer inside of wrappers such as accelerate's."""
    for _ in range(8):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None or not hasattr(inner, "step"):
            break
        optimizer = inner
    return optimizer
