"""Values of a flight-recorder document, whose types nobody vouches for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_INTEGER = re.compile(r"-?\d{1,18}")
_MOST_RANKS = 1 << 20


def mapping(value: object) -> Mapping[Any, Any]:
    """It, where it is one; else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> Sequence[Any]:
    """The items of a list or tuple; of anything else none."""
    return value if isinstance(value, (list, tuple)) else ()


def text(value: object) -> str:
    """It, where it is text; else ""."""
    return value if isinstance(value, str) else ""


def integer(value: object, default: int) -> int:
    """A whole number, also where it is written as text, as JSON dumps do."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def number_or_none(value: object) -> float | None:
    """A number; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def ranks_of(value: object) -> tuple[int, ...]:
    """The ranks in a text such as "[0, 1, 2]"; () where it is none."""
    found = re.findall(r"\d{1,9}", text(value))
    return tuple(map(int, found[:_MOST_RANKS]))
