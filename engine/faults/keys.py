"""The keys of a fault: what each means, and how its value is read and written."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_WHOLE = re.compile(r"[0-9]+")
_MOST_DIGITS = 9
_RANGE = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Steps(NamedTuple):
    """Steps from the first to the last, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def has(self, step: int) -> bool:
        """Whether ``step`` is one of them."""
        return self.first <= step <= self.last


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of a class of faults.

    Attributes:
        name: in the grammar, and of the fault's field.
        meaning: completes "NAME is ...".
        read: makes the value of (name, text); ValueError says why it cannot be used.
        default: used where the key is left out; None: it is needed.
    """

    name: str
    meaning: str
    read: Callable[[str, str], Any]
    default: Any = None

    @property
    def needed(self) -> bool:
        """Whether it may not be left out."""
        return self.default is None


def key(meaning: str, read: Callable[[str, str], Any], default: Any = None) -> Any:  # noqa: ANN401
    """A field of a fault's dataclass that is a key of the grammar."""
    metadata = {"meaning": meaning, "read": read}
    if default is None:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(metadata=metadata, default=default)


def keys_of(fault: type) -> list[Key]:
    """The keys of a class, in the order in which it declares them."""
    return [
        Key(
            name=field.name,
            default=None if field.default is dataclasses.MISSING else field.default,
            **field.metadata,
        )
        for field in dataclasses.fields(fault)
        if "meaning" in field.metadata
    ]


def whole_number(name: str, text: str) -> int:
    """Read a number from 0, of at most nine digits."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{name}={text} is not a whole number")
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"{name}={text[:_MOST_DIGITS]}... is too large")
    return int(text)


def between(least: int, most: int) -> Callable[[str, str], int]:
    """Reads a number within these, both included."""

    def read(name: str, text: str) -> int:
        number = whole_number(name, text)
        if not least <= number <= most:
            raise ValueError(f"{name}={text} is not between {least} and {most}")
        return number

    return read


one_step = between(1, 10**9)
"""Reads the number of a step, from 1."""


def step_range(name: str, text: str) -> Steps:
    """Read ``FIRST-LAST``, both included, from 1."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"{name}={text} is not a range FIRST-LAST")
    steps = Steps(int(match[1]), int(match[2]))
    if not 1 <= steps.first <= steps.last:
        raise ValueError(f"{name}={text} is not a range: it should go up, from 1 or more")
    return steps


def duration_s(name: str, text: str) -> float:
    """Read seconds above 0, to the millisecond."""
    if not _SECONDS.fullmatch(text) or float(text) == 0:
        raise ValueError(f"{name}={text} is not a number of seconds above 0, such as 2.5")
    return float(text)


def host_or_rank(name: str, text: str) -> str:
    """Read the name of a host, or ``@RANK``."""
    if text.startswith("@"):
        whole_number(name, text[1:])
    elif not _HOST.fullmatch(text):
        raise ValueError(f"{name}={text} is not a name of a host")
    return text
