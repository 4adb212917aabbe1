"""A control group (version 1) for one process, below the one that it is in."""

from __future__ import annotations

import functools
import os
import secrets
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEEPER = Path(__file__).with_name("cgroup_keeper.py")
_PROCESSES = "cgroup.procs"


class OwnCgroup:
    """Limits this process until it is closed; the group goes too when the process dies.

    Args:
        controller: "memory" or "cpu".
        limits: by the names of the group's files. What the process has used before is not counted:
            charges of memory stay with the group in which they were made.

    Raises:
        OSError: the kernel refused; nothing is left.
    """

    def __init__(self, controller: str, limits: Mapping[str, int]) -> None:
        outer = _own_group(controller)
        if outer is None:
            raise FileNotFoundError(f"no {controller} controller of version 1")
        self.path = _make(outer)
        # Outside of the group, and of this session: it outlives us to take the group away.
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_KEEPER), str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            for name, value in limits.items():
                (self.path / name).write_text(str(value))
            (self.path / _PROCESSES).write_text(str(os.getpid()))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Put this process back where it was."""
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()
        self._keeper.wait()


@functools.cache
def why_no_cgroup(controller: str) -> str:
    """Why no group can be made, or ""; found out by making one."""
    outer = _own_group(controller)
    if outer is None:
        return f"this machine has no {controller} cgroup of version 1"
    try:
        _make(outer).rmdir()
    except OSError as error:
        return f"no {controller} cgroup can be made: {error.strerror}"
    return ""


def _make(outer: Path) -> Path:
    path = outer / f"opsuite-fault-{os.getpid()}-{secrets.token_hex(4)}"
    path.mkdir()
    return path


def _own_group(controller: str) -> Path | None:
    """The directory of the group that this process is in."""
    with suppress(OSError):
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        for line in groups:
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                return _directory(controller, path, mounts)
    return None


def _directory(controller: str, path: str, mounts: list[str]) -> Path | None:
    for line in mounts:
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup" and controller in options.split(","):
            root, point = before.split(" ")[3:5]
            inside = path.removeprefix(root) if root != "/" else path
            directory = Path(point) / inside.strip("/")
            return directory if directory.is_dir() else None
    return None
