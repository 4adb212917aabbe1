"""The clocks of a process: monotonic for durations, anchored once to the wall."""

from __future__ import annotations

import functools
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

now_ns = time.monotonic_ns
"""Monotonic nanoseconds, the time of every recorded event; one clock per host and boot."""

_PROC = Path("/proc")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """One instant read from both clocks of a host.

    Attributes:
        wall_ns: nanoseconds since the epoch.
        monotonic_ns: :func:`now_ns` at that instant.
    """

    wall_ns: int
    monotonic_ns: int

    @classmethod
    def take(cls, attempts: int = 5) -> Anchor:
        """Read both clocks; of several attempts, the one that took the least time."""
        readings = []
        for _ in range(attempts):
            before = time.monotonic_ns()
            wall = time.time_ns()
            after = time.monotonic_ns()
            readings.append((after - before, wall, (before + after) // 2))
        _, wall, monotonic = min(readings)
        return cls(wall_ns=wall, monotonic_ns=monotonic)


def host_name() -> str:
    """The name under which this host appears in the store."""
    return socket.gethostname() or "localhost"


@functools.cache
def boot_id() -> str:
    """What tells this boot of the host from the last one: monotonic clocks restart with it."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        import psutil  # not Linux

        return f"boot-{psutil.boot_time():.0f}"


@functools.cache
def process_space() -> str:
    """What process ids mean something in: this boot of this host, and the container if any."""
    try:
        return f"{boot_id()}/{_PID_NAMESPACE.stat().st_ino}"
    except OSError:
        return boot_id()  # not Linux


def process_lives(pid: int, *, since_ns: int) -> bool:
    """Whether ``pid`` is a process of this host that was there at the wall time ``since_ns``.

    A number that was given to a newer process does not count.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        slack_s = 2.0  # start times are kept in ticks since a boot time kept in seconds
        return bool(process.create_time() <= since_ns / 1e9 + slack_s)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def process_lives_since(pid: int, monotonic_ns: int) -> bool:
    """Whether ``pid`` is a process of this host that was there when :func:`now_ns` said so.

    A number that was given to a newer process does not count, and the wall clock may be set.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        if (_PROC / "self" / "stat").exists():
            return _has_process(pid)
        since_ns = time.time_ns() - (now_ns() - monotonic_ns)  # not Linux
        return process_lives(pid, since_ns=since_ns)
    fields = stat.rpartition(b") ")[2].split()  # from the state, the third of them, on
    started_ns = int(fields[19]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - now_ns()  # while suspended
    return fields[0] not in (b"Z", b"X") and started_ns <= monotonic_ns + asleep_ns


def _has_process(pid: int) -> bool:
    """Whether the number is in use; /proc may hide what belongs to other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
