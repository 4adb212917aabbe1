"""Forward passes of the trained model."""

from __future__ import annotations

import gc
from collections import OrderedDict
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from collectors.board import Activity

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle

    from engine.watching.patches import Patches
    from engine.watching.timeline import Timeline

_MOST_ROOTS = 16
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called")


class Modules:
    """Sees the forward passes of whole models, in training and in evaluation."""

    def __init__(self, timeline: Timeline, patches: Patches) -> None:
        self._timeline = timeline
        self._patches = patches
        self._watched: dict[int, tuple[nn.Module, list[RemovableHandle]]] = {}
        self._kinds: set[type] = set()
        self._open: list[Activity] = []

    def install(self) -> None:
        """Have what compiles modules with their hooks see them without ours."""
        self._patches.wrap(torch.jit, "script", self._without_hooks)
        self._patches.add(self._unhook)

    def watch(self, model: nn.Module) -> None:
        """Watch a model, and what it wraps."""
        for module in _with_wrapped(model):
            if id(module) not in self._watched and not isinstance(module, torch.jit.ScriptModule):
                self._watched[id(module)] = (module, self._hooked(module))
                self._keep_from_copies(type(module))

    def _keep_from_copies(self, kind: type[nn.Module]) -> None:
        """Have copies and pickles of such modules made without our hooks."""
        owner = next(base for base in kind.__mro__ if "__getstate__" in vars(base))
        if owner not in self._kinds:
            self._kinds.add(owner)
            self._patches.wrap(owner, "__getstate__", _without_ours)

    def _hooked(self, module: nn.Module) -> list[RemovableHandle]:
        return [
            module.register_forward_pre_hook(_Hook(self._before), prepend=True),
            module.register_forward_hook(_Hook(self._after), always_call=True),
        ]

    def _unhook(self) -> None:
        for _, handles in self._watched.values():
            while handles:
                handles.pop().remove()

    def _without_hooks(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._unhook()
            try:
                return function(*args, **kwargs)
            finally:
                for module, handles in self._watched.values():
                    handles.extend(self._hooked(module))

        return call

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
    """A hook of this process alone: copies and pickles of its module do not have it.

    Those made past ``__getstate__`` have one of nothing in its place: the standard library's, so
    that a pickled model loads where opsuite is not.
    """

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> None:
        self._call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


def _without_ours(function: Callable[..., Any]) -> Callable[..., Any]:
    """``__getstate__``, which says what a copy or a pickle is made of."""

    def call(module: nn.Module) -> Any:
        state = function(module)
        if not isinstance(state, dict) or any(name not in state for name in _HOOKS):
            return state
        hooks = [*state["_forward_pre_hooks"].items(), *state["_forward_hooks"].items()]
        ours = {key for key, hook in hooks if isinstance(hook, _Hook)}
        return state | {name: _but(ours, state[name]) for name in _HOOKS} if ours else state

    return call


def _but(keys: set[int], hooks: dict[int, Any]) -> OrderedDict[int, Any]:
    return OrderedDict((key, hook) for key, hook in hooks.items() if key not in keys)


def _with_wrapped(model: nn.Module) -> list[nn.Module]:
    """A model, and what DDP, torch.compile or the like wrap: users call both."""
    found = [model]
    while len(found) < 8:
        inner = getattr(found[-1], "module", None) or getattr(found[-1], "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        found.append(inner)
    return found
