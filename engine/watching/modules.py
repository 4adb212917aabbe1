"""Forward passes of the trained model."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from collectors.board import Activity

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from engine.watching.patches import Patches
    from engine.watching.timeline import Timeline

_MOST_ROOTS = 16


class Modules:
    """Sees the forward passes of whole models, in training and in evaluation."""

    def __init__(self, timeline: Timeline, patches: Patches) -> None:
        self._timeline = timeline
        self._patches = patches
        self._watched: set[int] = set()
        self._open: list[Activity] = []

    def watch(self, model: nn.Module) -> None:
        """Watch a model, and what it wraps."""
        for module in _with_wrapped(model):
            if id(module) in self._watched:
                continue
            self._watched.add(id(module))
            before = module.register_forward_pre_hook(_Hook(self._before), prepend=True)
            after = module.register_forward_hook(_Hook(self._after), always_call=True)
            self._patches.add(before.remove)
            self._patches.add(after.remove)

    def find(self, optimizer: Optimizer) -> None:
        """Watch the models whose parameters ``optimizer`` changes, wherever they are."""
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        modules = [each for each in gc.get_objects() if issubclass(type(each), nn.Module)]
        inner = {id(child) for module in modules for child in module.children()}
        roots = [module for module in modules if id(module) not in inner]
        for root in roots[:_MOST_ROOTS]:
            if any(id(parameter) in trained for parameter in root.parameters()):
                self.watch(root)

    def _before(self, module: nn.Module, *_: Any) -> None:
        if torch.compiler.is_compiling() or not self._timeline.here():
            return
        trains = module.training and torch.is_grad_enabled()
        activity = Activity.FORWARD if trains else Activity.EVALUATION
        self._open.append(activity)
        self._timeline.begin(activity)

    def _after(self, _module: nn.Module, *_: Any) -> None:
        if torch.compiler.is_compiling() or not self._timeline.here():
            return
        if self._open:
            self._timeline.end(self._open.pop())


class _Hook:
    """A hook of this process alone: in copies and pickles of its module there is one of nothing.

    That one is the standard library's, so that a pickled model loads where opsuite is not.
    """

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> None:
        self._call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


def _with_wrapped(model: nn.Module) -> list[nn.Module]:
    """A model, and what DDP, torch.compile or the like wrap: users call both."""
    found = [model]
    while len(found) < 8:
        inner = getattr(found[-1], "module", None) or getattr(found[-1], "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        found.append(inner)
    return found
