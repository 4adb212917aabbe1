"""Stacks of many ranks, equal ones together, the odd one first: where one is and the others not."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from collectors.membership import group_name
from collectors.samplers.thread_stack import StackFrame
from collectors.samplers.user_code import is_opsuites

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_WAITING = "torch/distributed/"
_MOST_PROCESSES = 4


@dataclass(frozen=True, kw_only=True)
class StackHolder:
    """Whose stack it is.

    Attributes:
        rank: None: of a process that is no rank.
        child: what kind of child of it ("loader worker"); "": the process itself.
    """

    role: str
    rank: int | None
    pid: int
    child: str = ""
    active: bool | None = None
    stopped: bool = False


@dataclass(frozen=True, kw_only=True)
class StackGroup:
    """Processes whose main threads are at the same place.

    Attributes:
        kind: what they are: a role ("trainer"), or a kind of children ("loader worker").
        total: how many stacks of this kind there are in all groups.
        frames: of one of them, the innermost first.
    """

    kind: str
    total: int
    holders: tuple[StackHolder, ...]
    frames: tuple[StackFrame, ...]


@dataclass(frozen=True, kw_only=True)
class UnreadStack:
    """A process that could not be read, and why."""

    holder: StackHolder
    reason: str


def group_stacks(
    stacks: Iterable[tuple[StackHolder, Sequence[StackFrame]]],
) -> tuple[StackGroup, ...]:
    """Groups of equal stacks: by kind, ranks before children; the smallest first in each.

    Stacks are equal where all functions, files and lines are, opsuite's own frames left out. Of
    groups as small as each other, those come first that wait in no collective.
    """
    members: dict[Any, list[tuple[StackHolder, tuple[StackFrame, ...]]]] = defaultdict(list)
    totals: dict[str, int] = defaultdict(int)
    for holder, frames in stacks:
        kind = holder.child or holder.role
        own = without_own(frames)
        totals[kind] += 1
        members[kind, tuple(map(_place, own))].append((holder, own))
    groups = [
        StackGroup(
            kind=kind,
            total=totals[kind],
            holders=tuple(holder for holder, _ in sorted(equal, key=lambda one: _order(one[0]))),
            frames=equal[0][1],
        )
        for (kind, _), equal in members.items()
    ]
    return tuple(sorted(groups, key=_oddness))


def without_own(frames: Sequence[StackFrame]) -> tuple[StackFrame, ...]:
    """The frames that are not opsuite's; all of them where nothing else is there."""
    kept = tuple(frame for frame in frames if not is_opsuites(frame.path))
    return kept or tuple(frames)


def render_groups(groups: Sequence[StackGroup], unread: Sequence[UnreadStack] = ()) -> str:
    """The groups as text for people, and after them who could not be read."""
    blocks = [_render(group) for group in groups]
    blocks += [f"not read: {_who([one.holder])}: {one.reason}" for one in unread]
    return "\n\n".join(blocks)


def from_entries(
    entries: Iterable[Mapping[str, Any]],
) -> tuple[list[tuple[StackHolder, tuple[StackFrame, ...]]], list[UnreadStack]]:
    """The main threads, and who could not be read, from the entries of one reading."""
    mains: dict[int, Mapping[str, Any]] = {}
    unread = []
    for entry in entries:
        if "error" in entry:
            unread.append(UnreadStack(holder=_holder(entry), reason=entry["error"]))
        elif entry["pid"] not in mains or entry.get("main"):
            mains[entry["pid"]] = entry
    return [(_holder(entry), _frames(entry)) for entry in mains.values()], unread


def _holder(entry: Mapping[str, Any]) -> StackHolder:
    return StackHolder(
        role=entry["role"],
        rank=entry["rank"],
        pid=entry["pid"],
        child=entry.get("child", ""),
        active=entry.get("active"),
        stopped=bool(entry.get("stopped")),
    )


def _frames(entry: Mapping[str, Any]) -> tuple[StackFrame, ...]:
    return tuple(
        StackFrame(
            function=frame["function"],
            path=frame.get("path", frame["file"]),
            file=frame["file"],
            line=frame["line"],
        )
        for frame in entry["frames"]
    )


def _place(frame: StackFrame) -> tuple[str, str, int]:
    """Where a frame is, by the name that every reader of stacks knows: not the qualified one."""
    return frame.function.rpartition(".")[2], frame.path, frame.line


def _order(holder: StackHolder) -> tuple[bool, int, int]:
    return holder.rank is None, holder.rank or 0, holder.pid


def _oddness(group: StackGroup) -> tuple[Any, ...]:
    waits = any(_WAITING in frame.path for frame in group.frames)
    child = bool(group.holders[0].child)
    return child, group.kind, len(group.holders), waits, _order(group.holders[0])


def _render(group: StackGroup) -> str:
    of = "" if group.kind == group.holders[0].role else f" {group.kind}s"
    lines = [f"{len(group.holders)} of {group.total}{of}: {_who(group.holders)}{_states(group)}"]
    lines += [f"  {frame.function} ({frame.file}:{frame.line})" for frame in group.frames]
    return "\n".join(lines if group.frames else [*lines, "  no Python frame"])


def _who(holders: Sequence[StackHolder]) -> str:
    ranks = sorted({holder.rank for holder in holders if holder.rank is not None})
    names = group_name("", ranks)[1:-1]
    told = f"rank{'s' if len(ranks) > 1 else ''} {names}" if ranks else holders[0].role
    if holders[0].child:
        told = f"{holders[0].child} of {told}"
    if len(holders) > _MOST_PROCESSES:
        return told
    pids = ", ".join(str(holder.pid) for holder in holders)
    return f"{told}, process{'es' if len(holders) > 1 else ''} {pids}"


def _states(group: StackGroup) -> str:
    stopped = [holder for holder in group.holders if holder.stopped]
    if not stopped:
        return ""
    if len(stopped) == len(group.holders):
        return " (stopped)"
    return f" ({', '.join(str(holder.pid) for holder in stopped)} stopped)"
