"""Changes to other people's objects, each of which can be undone."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Patches:
    """Remembers what it changed; :meth:`undo` puts everything back, the last change first."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def wrap(
        self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        """Replace the function ``owner.name`` by ``make(function)``; what is not there stays so.

        What somebody else put in its place meanwhile is not touched when this is undone: it calls
        ours, which then only passes the call on.
        """
        original = vars(owner).get(name)
        if not callable(original):
            return
        passing = _Passing(original, make(original))
        replacement = passing.function()
        setattr(owner, name, replacement)

        def undo() -> None:
            passing.over = True
            if vars(owner).get(name) is replacement:
                setattr(owner, name, original)

        self._undo.append(undo)

    def add(self, undo: Callable[[], object]) -> None:
        """``undo`` takes back something that was done otherwise."""
        self._undo.append(undo)

    def undo(self) -> None:
        """Put everything back."""
        while self._undo:
            self._undo.pop()()


class _Passing:
    """Calls the replacement until it is over, and the original from then on."""

    def __init__(self, original: Callable[..., Any], replacement: Callable[..., Any]) -> None:
        self._original = original
        self._replacement = replacement
        self.over = False

    def function(self) -> Callable[..., Any]:
        original, replacement = self._original, self._replacement

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.over:
                return original(*args, **kwargs)
            return replacement(*args, **kwargs)

        return call
