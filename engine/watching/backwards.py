"""Backward passes, and the gradient synchronisation that DistributedDataParallel does inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Variable
from torch.nn.parallel import DistributedDataParallel

from collectors.board import Activity

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.watching.collectives import Arrival, Collectives, GroupFacts
    from engine.watching.patches import Patches
    from engine.watching.timeline import Timeline

_NAME = "gradient_all_reduce"


class Backwards:
    """Sees backward passes.

    DistributedDataParallel reduces gradients in C++ while they are computed, where no hook looks.
    But the engine runs its final callbacks in the order in which they were asked for, and ours,
    asked for at the very first gradient, comes before the one that waits for the reductions: there
    this rank has done its own work. From then until the pass returns it is in the collective
    ``gradient_all_reduce`` of the group "ddp".
    """

    def __init__(self, timeline: Timeline, collectives: Collectives) -> None:
        self._timeline = timeline
        self._collectives = collectives
        self._pending: DistributedDataParallel | None = None
        self._gradient_bytes: dict[int, int] = {}

    def install(self, patches: Patches) -> None:
        """Watch ``backward`` of tensors and of torch.autograd, and forward of DDP modules."""
        patches.wrap(torch.autograd, "backward", self._watched_backward)
        patches.wrap(DistributedDataParallel, "forward", self._watched_forward)

    def _watched_forward(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(module: DistributedDataParallel, *args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled() and module.require_backward_grad_sync:
                self._pending = module
            return function(module, *args, **kwargs)

        return call

    def _watched_backward(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or not self._timeline.here():
                return function(tensors, *args, **kwargs)
            module, self._pending = self._pending, None
            sync = None if module is None else self._synchronisation(module)
            self._timeline.begin(Activity.BACKWARD)
            hook = None if sync is None else _at_the_end_of_own_work(tensors, sync.arrive)
            try:
                return function(tensors, *args, **kwargs)
            finally:
                if hook is not None:
                    hook.remove()
                if sync is not None:
                    sync.depart()
                self._timeline.end(Activity.BACKWARD)

        return call

    def _synchronisation(self, module: DistributedDataParallel) -> _Synchronisation | None:
        facts = self._collectives.facts(module.process_group, axis="ddp")
        if facts is None or facts.size < 2:
            return None
        size = self._gradient_bytes.get(id(module))
        if size is None:
            size = sum(p.nbytes for p in module.parameters() if p.requires_grad)
            self._gradient_bytes[id(module)] = size
        return _Synchronisation(self._collectives, facts, size)


class _Synchronisation:
    """One waiting for the gradients of all ranks."""

    def __init__(self, collectives: Collectives, facts: GroupFacts, size_bytes: int) -> None:
        self._collectives = collectives
        self._facts = facts
        self._size_bytes = size_bytes
        self._arrival: Arrival | None = None

    def arrive(self) -> None:
        """This rank has computed its gradients."""
        self._arrival = self._collectives.enter(_NAME, self._facts, self._size_bytes)

    def depart(self) -> None:
        """All gradients are there, or the pass has failed."""
        if self._arrival is not None:
            self._collectives.leave(self._arrival)


def _at_the_end_of_own_work(tensors: Any, call: Callable[[], None]) -> Any:
    """Have ``call`` made when the pass over ``tensors`` has computed all gradients of this rank."""
    first = tensors if isinstance(tensors, torch.Tensor) else next(iter(tensors), None)
    if first is None or not first.requires_grad:
        return None

    def queue(_: torch.Tensor) -> None:
        Variable._execution_engine.queue_callback(call)

    return first.register_hook(queue)
