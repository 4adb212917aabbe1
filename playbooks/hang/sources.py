"""The source lines of stacks, which tell a lock from a sleep where C code waits."""

from __future__ import annotations

import linecache
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from playbooks.hang.observation import Frame, RankStack

_MOST_BYTES = 2 << 20
_MOST_CHARACTERS = 160


def with_sources(stacks: Iterable[RankStack]) -> tuple[RankStack, ...]:
    """The same stacks with the text of their lines, as the files on this host are now."""
    linecache.checkcache()
    return tuple(
        replace(
            stack,
            frames=tuple(map(_with_text, stack.frames)),
            others=tuple(tuple(map(_with_text, frames)) for frames in stack.others),
        )
        for stack in stacks
    )


def _with_text(frame: Frame) -> Frame:
    if frame.text or not _readable(frame.file):
        return frame
    text = linecache.getline(frame.file, frame.line).strip()
    return replace(frame, text=text[:_MOST_CHARACTERS])


def _readable(file: str) -> bool:
    """The name comes from another process: no pipe, no device, nothing huge."""
    if not file.endswith(".py"):
        return False
    try:
        found = Path(file).stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size <= _MOST_BYTES
