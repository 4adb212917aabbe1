"""Names of groups that say who is in them: ``dp[0-3,8]``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME = re.compile(r"[^\[\]]*\[([0-9,\-]*)\]")
_MOST = 1 << 20


def group_name(axis: str, ranks: Iterable[int]) -> str:
    """Axis and members, neighbours of three or more taken together."""
    parts: list[str] = []
    for first, last in _stretches(sorted(set(ranks))):
        if last - first >= 2:
            parts.append(f"{first}-{last}")
        else:
            parts += [str(rank) for rank in range(first, last + 1)]
    return f"{axis}[{','.join(parts)}]"


def members_of(name: str) -> tuple[int, ...] | None:
    """The ranks in a group's name, ascending; None where it names none, or was cut off."""
    found = _NAME.fullmatch(name)
    if found is None or not found[1]:
        return None
    ranks: set[int] = set()
    for part in found[1].split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()) or part.endswith("-"):
            return None
        span = range(int(first), int(last or first) + 1)
        if len(span) + len(ranks) > _MOST:
            return None
        ranks.update(span)
    return tuple(sorted(ranks))


def _stretches(ranks: list[int]) -> Iterable[tuple[int, int]]:
    start = 0
    for index in range(1, len(ranks) + 1):
        if index == len(ranks) or ranks[index] != ranks[index - 1] + 1:
            yield ranks[start], ranks[index - 1]
            start = index
