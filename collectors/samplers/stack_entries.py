"""Stacks as they are recorded and told: one entry a thread, of JSON values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collectors.samplers.thread_stack import ProcessStacks, ThreadStack

_MOST_BYTES = 12_000  # of one event's attributes, which take 16 KiB


def stack_entries(found: ProcessStacks) -> list[dict[str, Any]]:
    """One entry for each thread of a process, or one with ``error`` where it could not be read.

    An entry has pid, child ("" for the process itself), stopped, thread_id, thread, main, active,
    gil and frames, the innermost first; where the process wrote them itself, ``note`` says why.
    """
    who: dict[str, Any] = {"pid": found.pid, "child": found.child, "stopped": found.stopped}
    if found.error:
        return [{**who, "error": found.error}]
    if found.note:
        who["note"] = found.note
    return [{**who, **_entry(thread)} for thread in found.threads]


def fitted(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry that an event can carry: of too many frames, the outermost are left out."""
    frames: Sequence[dict[str, Any]] = entry.get("frames", ())
    kept, size = [], 0
    for frame in frames:
        size += len(json.dumps(frame))
        if size > _MOST_BYTES:
            break
        kept.append(frame)
    if len(kept) == len(frames):
        return entry
    return {**entry, "frames": kept, "frames_left_out": len(frames) - len(kept)}


def _entry(thread: ThreadStack) -> dict[str, Any]:
    return {
        "thread_id": thread.thread_id,
        "thread": thread.name or None,
        "main": thread.main,
        "active": thread.active,
        "gil": thread.gil,
        "frames": [
            {"function": frame.function, "file": frame.file, "path": frame.path, "line": frame.line}
            for frame in thread.frames
        ],
    }
