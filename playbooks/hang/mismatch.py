"""All have come, to different collectives or with different arguments: who is in the wrong one."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

from playbooks.finding import Confidence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from playbooks.hang.enqueued import Wait, Waits

_EQUAL = re.compile(r"(gradient_)?all_?reduce|reduce$|broadcast|(all_gather|reduce_scatter)_\w")
"""Those that need equal sizes on all ranks."""


def in_the_wrong_one(waits: Waits) -> tuple[frozenset[int], Confidence]:
    """The ranks in another collective than the others, or that called it with other arguments, and
    how sure that is; none: all agree.

    Those that never were in it at this place of their steps before, else the fewer, else all.
    """
    single = {rank: found[0] for rank, found in waits.items()}
    given = [partial(_given, name) for name in ("root", "type", "sizes")]
    signatures: list[Callable[[Wait], object]] = [_call, _sequence, *given, _size, _line]
    for signature in signatures:
        parts = _parts(single.values(), signature)
        if len(parts) > 1:
            return _odd(single, parts)
    return frozenset(), Confidence.POSSIBLE


def _odd(waits: dict[int, Wait], parts: list[frozenset[int]]) -> tuple[frozenset[int], Confidence]:
    unusual = frozenset(rank for rank, wait in waits.items() if wait.unusual)
    smaller = frozenset().union(*parts[1:])
    is_majority = 2 * len(parts[0]) > len(waits)
    if unusual and 2 * len(unusual) <= len(waits) and any(unusual <= part for part in parts):
        sure = is_majority and unusual <= smaller
        return unusual, Confidence.CERTAIN if sure else Confidence.LIKELY
    if is_majority:
        return smaller, Confidence.LIKELY
    return frozenset(waits), Confidence.POSSIBLE


def _parts(waits: Iterable[Wait], signature: Callable[[Wait], object]) -> list[frozenset[int]]:
    """Ranks of equal signature, the most first; those of which it is not known are left out."""
    found: dict[object, set[int]] = defaultdict(set)
    for wait in waits:
        key = signature(wait)
        if key is not None:
            found[key].add(wait.rank)
    return sorted((frozenset(part) for part in found.values()), key=lambda p: (-len(p), min(p)))


def _call(wait: Wait) -> object:
    """What it is, and where; peers of different groups (of one axis) do the same thing."""
    return wait.meeting.name, wait.meeting.group.partition("[")[0]


def _sequence(wait: Wait) -> object:
    return None if wait.meeting.sequence < 0 else (wait.meeting.group, wait.meeting.sequence)


def _size(wait: Wait) -> object:
    return wait.meeting.size_bytes if _EQUAL.match(wait.meeting.name) else None


def _given(name: str, wait: Wait) -> object:
    if name == "sizes" and not _EQUAL.match(wait.meeting.name):
        return None
    return dict(wait.meeting.given).get(name)


def _line(wait: Wait) -> object:
    return wait.meeting.where or None
