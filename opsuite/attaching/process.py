"""The processes of this machine as they can be seen from outside, without touching them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

_PYTHON = re.compile(r"(lib)?python[\d.]*[a-z]?(-dbg)?|pypy[\d.]*", re.IGNORECASE)
_TORCH = "/libtorch_python"
_OF_TORCH = "pt_"  # how torch names threads, the main ones of its processes among them


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process, as far as this user may know it.

    Attributes:
        born_s: when it began, wall clock; tells it from a later one of the same number.
        name: what the kernel calls it; a program may change it.
        command: its arguments; () where they are hidden.
        environ: with which it was started; None where that may not be read.
        user: whose it is; None: hidden.
        state: as psutil says it, such as "running", "stopped", "zombie".
        python: whether it is a Python interpreter.
    """

    pid: int
    parent: int
    born_s: float = 0.0
    name: str = ""
    command: tuple[str, ...] = ()
    environ: Mapping[str, str] | None = None
    user: str | None = None
    state: str = psutil.STATUS_SLEEPING
    python: bool = True


def look_up(pids: Iterable[int]) -> dict[int, Process]:
    """These processes and all that descend from them, by number; who is not there is left out.

    So are this process itself and what it started: it may run in the shell that was given.
    """
    parents = {process.pid: process.info["ppid"] for process in psutil.process_iter(["ppid"])}
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: dict[int, Process] = {}
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid in found or pid == os.getpid():
            continue
        process = _look_at(pid)
        if process is not None:
            found[pid] = process
            waiting += children.get(pid, [])
    return found


def is_hidden(pid: int) -> bool:
    """Whether the number is in use by a process that /proc does not show to this user."""
    try:
        os.kill(pid, 0)  # asks only: 0 is no signal
    except PermissionError:
        return not psutil.pid_exists(pid) or not Path(f"/proc/{pid}").exists()
    except (ProcessLookupError, OverflowError):
        return False
    return False


def own_line() -> frozenset[int]:
    """This process and all above it."""
    return frozenset([os.getpid(), *(above.pid for above in psutil.Process().parents())])


def has_torch(pid: int) -> bool | None:
    """Whether a process has loaded torch; None: that may not be seen, or not on this system."""
    try:
        with Path(f"/proc/{pid}/maps").open(encoding="utf-8", errors="replace") as maps:
            return any(_TORCH in line for line in maps)
    except OSError:
        return None


def still_there(process: Process) -> bool:
    """Whether that very process lives."""
    try:
        now = psutil.Process(process.pid)
        return bool(now.create_time() == process.born_s and now.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _look_at(pid: int) -> Process | None:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            name = process.name()
            command = tuple(_allowed(process.cmdline) or ())
            return Process(
                pid=pid,
                parent=process.ppid(),
                born_s=process.create_time(),
                name=name,
                command=command,
                environ=_allowed(process.environ),
                user=_allowed(process.username),
                state=process.status(),
                python=_is_python(name, command, _allowed(process.exe) or ""),
            )
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return None


def _allowed(read: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever is read
    """What ``read`` gives; None where it is not for us, or not there (as of a zombie)."""
    try:
        return read()
    except (psutil.AccessDenied, psutil.ZombieProcess, OSError):
        return None


def _is_python(name: str, command: tuple[str, ...], program: str) -> bool:
    """By its program where that may be seen; else by what it calls itself."""
    told = [Path(program).name] if program else [name, Path(command[0]).name if command else ""]
    return any(_PYTHON.fullmatch(text) for text in told) or name.startswith(_OF_TORCH)
