"""The flight recorder of a job that opsuite did not start, asked for through NCCL's named pipe.

With TORCH_NCCL_DEBUG_INFO_PIPE_FILE=P set when it starts, rank R's process group makes the pipe
``P<R>.pipe``, looks into it once a second, and at any byte writes its dump to ``F<R>``, where F is
TORCH_FR_DUMP_TEMP_FILE (ProcessGroupNCCL.hpp and FlightRecorder.cpp of torch 2.13).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING

from collectors.errors import TimedOut
from collectors.samplers.sampler import Absent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    _Stamp = tuple[int, int, int]

PIPE = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"
_TARGETS = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
_SIZES = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
_OLD_TARGET = "/tmp/nccl_trace_rank_"  # noqa: S108 - torch's own default until 2.6
_TIMEOUT_S = 5.0
_POLL_S = 0.05
_STOP = b"."  # the last byte of every pickle


def ask_by_pipe(
    environ: Mapping[str, str], rank: int, *, directory: Path, timeout_s: float = _TIMEOUT_S
) -> Path:
    """Have a process write its dump; gives the file, which :func:`read_flight_dump` reads.

    Args:
        environ: of the process; ``directory``: the one it works in (``/proc/<pid>/cwd``).
        rank: its rank in the job.

    Raises:
        Absent: it has no such pipe, or nobody listens at it; the text says what to set.
        TimedOut: it did not write a dump.
    """
    pipe = _pipe(environ, rank, directory)
    targets = _targets(environ, rank, directory)
    before = {path: _stamp(path) for path in targets}
    _write(pipe)
    deadline = time.monotonic() + timeout_s
    last: dict[Path, _Stamp | None] = {}
    while time.monotonic() < deadline:
        time.sleep(_POLL_S)
        for path in targets:
            now = _stamp(path)
            written = now is not None and now != before[path]
            if written and now == last.get(path) and _is_whole(path):
                return path
            last[path] = now
    raise TimedOut(
        f"rank {rank} did not write its flight recorder within {timeout_s:g} s; it is stopped, or "
        "another thread holds its interpreter's lock",
        where=str(pipe),
    )


def _pipe(environ: Mapping[str, str], rank: int, directory: Path) -> Path:
    stem = environ.get(PIPE)
    if not stem:
        raise Absent(
            f"its flight recorder has no pipe to ask through: start the job with {PIPE}=<path>"
        )
    if next((environ[name] for name in _SIZES if name in environ), "") == "0":
        raise Absent(f"its flight recorder is off: start the job with {_SIZES[0]}=2000")
    return directory / f"{stem}{rank}.pipe"


def _targets(environ: Mapping[str, str], rank: int, directory: Path) -> list[Path]:
    """Where the dump may come: where it was told to, or at the default of some version of torch."""
    for name in _TARGETS:
        if environ.get(name):
            return [directory / f"{environ[name]}{rank}"]
    home = f"{environ.get('HOME') or '/tmp'}/.cache"  # noqa: S108 - as torch does
    caches = dict.fromkeys((environ.get("XDG_CACHE_HOME") or home, home))
    stems = [f"{cache}/torch/comm_lib_trace_rank_" for cache in caches]
    return [directory / f"{stem}{rank}" for stem in (*stems, _OLD_TARGET)]


def _write(pipe: Path) -> None:
    try:
        descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Absent(_why_not(pipe, error)) from error
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise Absent(f"{pipe} is no pipe")
        os.write(descriptor, b"1")
    except BlockingIOError:
        pass  # full: it was asked often enough already
    except OSError as error:
        raise Absent(_why_not(pipe, error)) from error
    finally:
        os.close(descriptor)


def _why_not(pipe: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"there is no {pipe}: the job does not use NCCL, or has made no process group yet"
    if error.errno in (errno.ENXIO, errno.EPIPE):
        return f"nobody listens at {pipe}: the process that made it has ended"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{pipe} may not be written: run this as the user of the job"
    return f"{pipe}: {error.strerror}"


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_whole(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(descriptor)
        regular = stat.S_ISREG(found.st_mode) and found.st_size > 0
        return regular and os.pread(descriptor, 1, found.st_size - 1) == _STOP
    finally:
        os.close(descriptor)
