"""Waiting for a process to become a rank that trains."""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.optim import optimizer as torch_optimizer

from engine.watching.patches import Patches
from engine.watching.workers import is_worker

if TYPE_CHECKING:
    from collections.abc import Callable


def arm(watch: Callable[[], object]) -> None:
    """Call ``watch`` once: after ``init_process_group``, or before an optimizer's first step."""
    if dist.is_initialized():
        watch()
        return
    _Armed(watch).install()


class _Armed:
    def __init__(self, watch: Callable[[], object]) -> None:
        self._watch = watch
        self._patches = Patches()

    def install(self) -> None:
        for owner in (dist, distributed_c10d):
            self._patches.wrap(owner, "init_process_group", self._initialising)
        hook = torch_optimizer.register_optimizer_step_pre_hook(self._stepping)
        self._patches.add(hook.remove)

    def _initialising(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if dist.is_initialized():
                self._begin()
            return result

        return call

    def _stepping(self, *_: Any) -> None:
        if not is_worker() and not _is_child_of_rank():
            self._begin()

    def _begin(self) -> None:
        self._patches.undo()
        self._watch()


def _is_child_of_rank() -> bool:
    return multiprocessing.parent_process() is not None and "RANK" in os.environ
