"""The stacks of live processes, read from outside by py-spy while they go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collectors.errors import OpsuiteError, StorageError, TimedOut, Unreachable
from collectors.samplers.fault_stacks import read_fault_stacks
from collectors.samplers.rank_children import CHILD, RankChild, children_of
from collectors.samplers.thread_stack import ProcessStacks, StackFrame, ThreadStack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from collectors.board import BoardFacts

_TIMEOUT_S = 10.0
_WORKERS = 4
_ATTEMPTS = 3  # a process that goes on may change its stack while it is read
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_LOADER = ("_worker_loop", "torch/utils/data/_utils/worker.py")


def read_stacks(
    pids: Sequence[int],
    *,
    boards: Mapping[int, BoardFacts] | None = None,
    children: bool = True,
    within_s: float = _TIMEOUT_S,
) -> list[ProcessStacks]:
    """The stacks of these processes, in their order, and after them those of their children.

    A process that py-spy may not read writes its stacks itself, where ``boards`` (by process id)
    says how to ask it. One that cannot be read at all has ``error``; nothing is raised for it.

    Args:
        children: also read up to 8 Python processes that each has started.
        within_s: after so long nothing more is begun, and what is not read says so.
    """
    deadline = time.monotonic() + within_s
    wanted = [RankChild(pid=pid, rank_pid=pid, kind="") for pid in pids]
    if children:
        wanted += children_of(pids)
    known = boards or {}

    def read(process: RankChild) -> ProcessStacks:
        return _read(process, known.get(process.rank_pid), deadline)

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="stacks") as pool:
        return list(pool.map(read, wanted))


def _read(process: RankChild, facts: BoardFacts | None, deadline: float) -> ProcessStacks:
    left_s = min(deadline - time.monotonic(), _TIMEOUT_S)
    threads: tuple[ThreadStack, ...] = ()
    error = note = ""
    try:
        if left_s <= 0:
            raise TimedOut("no time was left to read it", where=f"process {process.pid}")
        threads = dump(process.pid, timeout_s=left_s)
    except OpsuiteError as refused:
        error = str(refused)
        if facts is not None and facts.stacks_signal and _lives(process.pid):
            try:
                threads, error, note = _read_fault_stacks(process, facts), "", str(refused)
            except OpsuiteError as silent:
                error = f"{refused}\n{silent}"
    return ProcessStacks(
        pid=process.pid,
        rank_pid=process.rank_pid,
        child=_kind(process, threads),
        threads=threads,
        stopped=_state(process.pid) in ("stopped", "tracing-stop"),
        error=error,
        note=f"written by the process itself, which shows less: {note}" if note else "",
    )


def _read_fault_stacks(process: RankChild, facts: BoardFacts) -> tuple[ThreadStack, ...]:
    return read_fault_stacks(facts, pid=process.pid if process.kind else None)


def _kind(process: RankChild, threads: Sequence[ThreadStack]) -> str:
    function, file = _LOADER
    frames = [frame for thread in threads if thread.main for frame in thread.frames]
    if process.kind == CHILD and any(
        frame.function == function and frame.path.endswith(file) for frame in frames
    ):
        return "loader worker"
    return process.kind


def dump(pid: int, *, timeout_s: float = _TIMEOUT_S) -> tuple[ThreadStack, ...]:
    """The threads of a process; it goes on, and may even be stopped.

    Raises:
        Unreachable: it is gone, is no Python, or may not be read; or there is no py-spy.
        TimedOut: py-spy did not end.
    """
    command = [_py_spy(), "dump", "--json", "--nonblocking", "--pid", str(pid)]
    said = ""
    for _ in range(_ATTEMPTS):
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                timeout=timeout_s,
                check=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "RUST_BACKTRACE": "0"},
            )
        except subprocess.TimeoutExpired:
            raise TimedOut(
                f"py-spy took more than {timeout_s:.1f} s", where=f"process {pid}"
            ) from None
        except OSError as error:
            raise StorageError.from_os_error(error, "starting py-spy") from error
        if done.returncode == 0:
            return _threads(pid, done.stdout)
        said = done.stderr.decode("utf-8", "replace").strip()
        if _is_denial(said) or not _lives(pid):
            break
    raise _explained(pid, said)


def _threads(pid: int, told: bytes) -> tuple[ThreadStack, ...]:
    try:
        threads = [_thread(pid, thread) for thread in json.loads(told)]
    except (ValueError, TypeError, AttributeError):
        raise Unreachable(f"py-spy said of process {pid} what is not understood") from None
    if not threads:
        raise Unreachable(f"process {pid} has no Python thread")
    return tuple(threads)


def _thread(pid: int, told: dict[str, Any]) -> ThreadStack:
    name = str(told.get("thread_name") or "")
    return ThreadStack(
        thread_id=told.get("thread_id"),
        name=name,
        main=told.get("os_thread_id") == pid or name == "MainThread",
        active=told.get("active"),
        gil=told.get("owns_gil"),
        frames=tuple(_frame(frame) for frame in told.get("frames", ())),
    )


def _frame(told: dict[str, Any]) -> StackFrame:
    path = str(told.get("filename"))
    return StackFrame(
        function=str(told.get("name")),
        path=path,
        file=str(told.get("short_filename") or path),
        line=int(told.get("line") or 0),
    )


def _is_denial(said: str) -> bool:
    return "permission" in said.lower() or "not permitted" in said.lower()


def _explained(pid: int, said: str) -> Unreachable:
    if not _lives(pid):
        return Unreachable(f"process {pid} has ended")
    if _is_denial(said):
        what, remedy = _denied(pid)
        return Unreachable(f"the stack of process {pid} cannot be read: {what}", remedy=remedy)
    lines = [line.removeprefix("Error: ") for line in said.splitlines() if line.strip()]
    told = lines[0] if lines else "py-spy failed"
    if "python version" in told:
        told = "it is no Python, or one that py-spy does not know"
    return Unreachable(f"the stack of process {pid} cannot be read: {told}")


def _denied(pid: int) -> tuple[str, str]:
    """Why it may not be read, and what to allow, with what that opens to others."""
    owner = _owner(pid)
    if owner not in (None, os.geteuid()) and os.geteuid() != 0:
        return (
            f"ptrace is not allowed: it belongs to the user {owner}",
            "run this as that user; or as root, or with CAP_SYS_PTRACE, which opens every process",
        )
    scope = _ptrace_scope()
    if scope == 3:
        return "ptrace is not allowed until the next boot (yama, ptrace_scope=3)", ""
    if scope > 0:
        return (
            f"ptrace is not allowed (yama, ptrace_scope={scope})",
            "as root: `sysctl kernel.yama.ptrace_scope=0`, after which every process can read the "
            "memory of others of its user; or give CAP_SYS_PTRACE to py-spy alone with setcap, and "
            "whoever may start it can read every process",
        )
    return (
        "ptrace is not allowed",
        "in a container, start it with --cap-add SYS_PTRACE, after which what runs in it can read "
        "each other's memory; elsewhere run this as root",
    )


def _owner(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


def _ptrace_scope() -> int:
    try:
        return int(_YAMA.read_text())
    except (OSError, ValueError):
        return 0  # no yama here


def _lives(pid: int) -> bool:
    return _state(pid) not in (None, "zombie", "dead")


def _state(pid: int) -> str | None:
    import psutil

    try:
        return str(psutil.Process(pid).status())
    except psutil.AccessDenied:
        return "hidden"
    except psutil.Error:
        return None


def _py_spy() -> str:
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise Unreachable("py-spy is not installed", remedy="pip install py-spy")
    return found
