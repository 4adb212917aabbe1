"""What the processes of a run are doing just now: their Python stacks, by py-spy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collectors.daemon.heartbeat import LocalProcesses
from collectors.errors import OpsuiteError, StorageError, TimedOut, Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collectors.daemon.heartbeat import Recording
    from collectors.daemon.journal import Journal
    from collectors.run import RunDirectory

_TIMEOUT_S = 10.0
_WORKERS = 4
_MOST_BYTES = 12_000  # of one event's attributes, which take 16 KiB
_NO_PTRACE = (
    "let py-spy read it: as root, or `sysctl kernel.yama.ptrace_scope=0`; in a container, start it "
    "with --cap-add SYS_PTRACE"
)


def take_stacks(run: RunDirectory, journal: Journal) -> list[dict[str, Any]]:
    """The stacks of all live processes of ``run`` on this host, one entry a thread; recorded too.

    An entry has process, role, rank, pid, thread_id, thread, active, gil and frames, the innermost
    first; one of a process that could not be read has ``error`` in the place of the last five.

    Raises:
        Unreachable: there is no such process.
        StorageError: the run's spool cannot be written.
    """
    processes = LocalProcesses().of(run)
    if not processes:
        raise Unreachable(
            f"no process of the run {run.run_id} is alive on this host", where=str(run.spool)
        )
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="stacks") as pool:
        entries = [entry for found in pool.map(_stacks_of, processes) for entry in found]
    for entry in entries:
        journal.record(run, "stack", fitted(entry))
    return entries


def _stacks_of(recording: Recording) -> list[dict[str, Any]]:
    who = vars(recording)
    try:
        threads = dump(recording.pid)
    except OpsuiteError as error:
        return [{**who, "error": str(error)}]
    return [{**who, **_thread(thread)} for thread in threads]


def _thread(told: dict[str, Any]) -> dict[str, Any]:
    """A thread as py-spy tells it, in our words."""
    frames = [
        {
            "function": str(frame.get("name")),
            "file": str(frame.get("short_filename") or frame.get("filename")),
            "line": frame.get("line"),
        }
        for frame in told.get("frames", ())
    ]
    return {
        "thread_id": told.get("thread_id"),
        "thread": told.get("thread_name"),
        "active": told.get("active"),
        "gil": told.get("owns_gil"),
        "frames": frames,
    }


def dump(pid: int) -> list[dict[str, Any]]:
    """The threads of a process as py-spy tells them; it is not stopped for it.

    Raises:
        Unreachable: it is gone, or may not be read.
        TimedOut: py-spy did not end.
    """
    command = [_py_spy(), "dump", "--json", "--nonblocking", "--pid", str(pid)]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise TimedOut(f"py-spy took more than {_TIMEOUT_S:g} s", where=f"process {pid}") from None
    except OSError as error:
        raise StorageError.from_os_error(error, "starting py-spy") from error
    if done.returncode:
        raise _explained(pid, done.stderr.decode("utf-8", "replace").strip())
    threads = json.loads(done.stdout)
    return [thread for thread in threads if isinstance(thread, dict)]


def _explained(pid: int, said: str) -> Unreachable:
    if "permission" in said.lower() or "not permitted" in said.lower():
        return Unreachable(
            f"the stack of process {pid} cannot be read: ptrace is not allowed", remedy=_NO_PTRACE
        )
    told = said.splitlines()[-1] if said else "py-spy failed"
    return Unreachable(f"the stack of process {pid} cannot be read: {told}")


def _py_spy() -> str:
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise Unreachable("py-spy is not installed", remedy="pip install py-spy")
    return found


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
