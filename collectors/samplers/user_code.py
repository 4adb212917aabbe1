"""Whose code a file is: the user's own, a library's, or what opsuite put there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collectors.samplers.thread_stack import StackFrame

_ROOT = Path(__file__).resolve().parents[2]
_OPSUITE = tuple(
    f"{_ROOT / part}/" for part in ("collectors", "engine/presence", "engine/watching", "opsuite")
)
_LIBRARIES = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen", "<string>")


def is_opsuites(path: str) -> bool:
    """Whether it belongs to what opsuite puts into a process to watch it."""
    return path.startswith(_OPSUITE)


def users_frame(frames: Sequence[StackFrame]) -> StackFrame | None:
    """Of a stack, innermost first, the innermost frame of the user's own code.

    Where all of it is libraries' (a stock trainer), that of the innermost one that is not torch.
    """
    ours = [frame for frame in frames if not is_opsuites(frame.path)]
    users = [frame for frame in ours if not any(part in frame.path for part in _LIBRARIES)]
    callers = [frame for frame in ours if _is_caller(frame.path)]
    return next(iter([*users, *callers]), None)


def _is_caller(path: str) -> bool:
    return "-packages/" in path and "-packages/torch/" not in path
