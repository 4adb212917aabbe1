"""Where the control groups of processes lie, under version 1 and version 2, and mixed."""

from __future__ import annotations

import os.path
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.samplers.sampler import Absent
from collectors.samplers.source import parsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

UNIFIED = ""  # the controller's name of a version 2 hierarchy
_CONTROLLERS = ("cpu", "memory")


@dataclass(frozen=True, kw_only=True)
class _Mount:
    """A hierarchy: where it is mounted, and which of its groups is seen there as the topmost."""

    place: Path
    top: str


@dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """A group as one controller has it.

    Attributes:
        controller: "cpu" or "memory".
        group: its path in its hierarchy, such as "/user.slice"; "/" is the topmost that is seen.
        directory: where its files are.
        unified: whether they are those of version 2.
        own: whether a process is in it, and not only in a group below it.
    """

    controller: str
    group: str
    directory: Path
    unified: bool
    own: bool


def places_of(root: Path, processes: Iterable[str]) -> list[Place]:
    """The groups that some processes ("self", or a number) are in, and all above these.

    Raises:
        Absent: there are no control groups here, or they may not be looked at.
        DataError, OSError: the kernel's tables cannot be read.
    """
    mounts = parsed(root / "proc/self/mountinfo", _read_mounts)
    if not mounts:
        raise Absent("no control groups are mounted here")
    found: dict[tuple[str, Path], Place] = {}
    troubles: list[Absent] = []
    for process in processes:
        try:
            groups = parsed(root / "proc" / process / "cgroup", _read_groups)
        except Absent as absent:  # it has ended; or none may be looked at
            troubles.append(absent)
            continue
        for place in _places(root, mounts, groups):
            key = (place.controller, place.directory)
            if key not in found or place.own:
                found[key] = place
    if troubles and not found:
        raise troubles[0]
    return sorted(found.values())


def _read_mounts(text: str) -> dict[str, _Mount]:
    """By controller; of several mounts of one the first, which is the host's."""
    mounts: dict[str, _Mount] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        _, _, _, top, place, *_ = before.split()
        names = [UNIFIED] if kind == "cgroup2" else options.split(",")
        for name in names:
            mounts.setdefault(name, _Mount(place=Path(place), top=top))
    return mounts


def _read_groups(text: str) -> dict[str, str]:
    """Paths by controller: lines such as ``4:memory:/job_7`` and ``0::/user.slice``."""
    groups = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _places(root: Path, mounts: dict[str, _Mount], groups: dict[str, str]) -> Iterator[Place]:
    for controller in _CONTROLLERS:
        name = controller if controller in groups and controller in mounts else UNIFIED
        if name not in groups or name not in mounts:
            continue
        mount = mounts[name]
        top = root / mount.place.relative_to("/")
        own = _below(top, mount.top, groups[name])
        for group in (own, *own.parents):
            yield Place(
                controller=controller,
                group=f"/{group}" if group.parts else "/",
                directory=top / group,
                unified=name == UNIFIED,
                own=group == own,
            )


def _below(top: Path, seen_top: str, path: str) -> Path:
    """A group's place below the mount; a container may be told of one that it does not see."""
    inside = os.path.relpath(path, seen_top)
    group = Path() if inside.startswith("..") else Path(inside)
    return group if (top / group).is_dir() else Path()
