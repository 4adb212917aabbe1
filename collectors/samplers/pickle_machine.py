"""The machine that builds plain values: a stack, marks and a memo, all of them bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MOST_CONTAINERS = 400_000
_MOST_HEIGHT = 64  # of containers in containers
_MOST_INTEGER = 1 << 60  # of keys: larger ones can be made to share their hashes
_LONGEST_LINE = 1 << 20
_CONTAINERS = (list, dict, tuple, set, frozenset)


class Damaged(Exception):  # noqa: N818 - becomes a DataError that says where
    """The bytes are no whole pickle, or one that is made to exhaust its reader."""


class PickleMachine:
    """Value stack, marks and memo of one pickle."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        # Of each container by its identity: how high it is, or ~height once it lies in another
        # and must not grow. So there are no cycles, and heights are exact.
        self._heights: dict[int, int] = {}
        self._containers_left = _MOST_CONTAINERS

    def result(self) -> object:
        """The one value that is left at the end."""
        if len(self._stack) != 1 or self._marks:
            raise Damaged("it does not end in one value")
        return self._stack[0]

    def byte(self) -> int:
        """The next byte."""
        byte = self._data[self._at]
        self._at += 1
        return byte

    def take(self, count: int) -> bytes:
        """The next bytes."""
        end = self._at + count
        if end > len(self._data):
            raise Damaged("it is cut off")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def line(self) -> bytes:
        """The bytes up to the end of the line."""
        end = self._data.find(b"\n", self._at, self._at + _LONGEST_LINE)
        if end < 0:
            raise Damaged("it is cut off")
        taken = self._data[self._at : end]
        self._at = end + 1
        return taken

    def push(self, value: object) -> None:
        """Put a scalar on the stack."""
        self._stack.append(value)

    def push_container(self, container: Any, children: Iterable[Any] = ()) -> None:  # noqa: ANN401 - any
        """Put a new container on the stack, which holds ``children`` already."""
        self._containers_left -= 1
        if self._containers_left < 0:
            raise Damaged("it has too many containers")
        self._heights[id(container)] = 1
        self._stack.append(container)
        self._adopt(container, children)

    def pop(self) -> Any:  # noqa: ANN401 - any plain value
        """The topmost value, down to the last mark."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise Damaged("it takes what is not there")
        return self._stack.pop()

    def pop_marked(self) -> list[Any]:
        """The values above the last mark."""
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    def mark(self) -> None:
        """Remember this place of the stack."""
        self._marks.append(len(self._stack))

    def extend(self, values: Sequence[Any]) -> None:
        """Append to the list on top."""
        target = self._top(list)
        self._adopt(target, values)
        target.extend(values)

    def assign(self, pairs: Sequence[Any]) -> None:
        """Keys and values, in turn, into the dict on top."""
        if len(pairs) % 2:
            raise Damaged("a key has no value")
        target = self._top(dict)
        keys, values = pairs[::2], pairs[1::2]
        check_keys(keys)
        self._adopt(target, values)
        target.update(zip(keys, values, strict=True))

    def add(self, values: Sequence[Any]) -> None:
        """Into the set on top."""
        target = self._top(set)
        check_keys(values)
        target.update(values)

    def put(self, index: int) -> None:
        """Remember the topmost value."""
        self._memo[index] = self._stack[-1]

    def put_next(self) -> None:
        """Remember the topmost value under the next number."""
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        """Put a remembered value on the stack."""
        self.push(self._memo[index])

    def two_topmost(self) -> tuple[Any, Any]:
        """The two topmost values, for a message."""
        stack = [None, None, *self._stack[-2:]]
        return stack[-2], stack[-1]

    def _top(self, kind: type) -> Any:  # noqa: ANN401 - the container on top
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise Damaged("it takes what is not there")
        if type(self._stack[-1]) is not kind:
            raise Damaged(f"it puts something into what is no {kind.__name__}")
        return self._stack[-1]

    def _adopt(self, parent: Any, children: Iterable[Any]) -> None:  # noqa: ANN401 - any container
        heights = self._heights
        height = heights[id(parent)]
        if height < 0:
            raise Damaged("what lies in a container grows")
        for child in children:
            if type(child) not in _CONTAINERS:
                continue
            below = heights[id(child)]
            if below > 0:
                below = heights[id(child)] = ~below
            height = max(height, ~below + 1)
            if height > _MOST_HEIGHT or child is parent:
                raise Damaged("it is nested too deep")
        heights[id(parent)] = height


def check_keys(keys: Sequence[Any]) -> None:
    """Keys are scalars of which nobody can make many that share a hash."""
    for key in keys:
        kind = type(key)
        if kind is str or kind is bytes or kind is bool or key is None:
            continue
        if kind is not int or not -_MOST_INTEGER < key < _MOST_INTEGER:
            raise Damaged(f"a key that is a {kind.__name__}, or too large a number")
