"""What a rank's process uses and has used: read from outside, nothing is asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """One reading; None is what may not be read.

    Attributes:
        state: as psutil says it.
        cpu_s: processor time so far of all its threads; ``main_cpu_s``: of the main thread.
        main_wait_s: how long the main thread has waited for a core so far.
        main_switches: how often the main thread has left its core so far.
        rss_bytes, threads: now.
        read_bytes, written_bytes: so far, page cache included.
        family_cpu_s, family_io_bytes: so far, with the processes below it that live.
    """

    state: str
    cpu_s: float | None
    main_cpu_s: float | None
    main_wait_s: float | None
    main_switches: int | None
    rss_bytes: int | None
    threads: int | None
    read_bytes: int | None
    written_bytes: int | None
    family_cpu_s: float | None
    family_io_bytes: int | None

    @property
    def stopped(self) -> bool:
        """Whether a signal or a debugger has stopped it."""
        return self.state in _STOPPED

    def samples(self) -> Mapping[str, float]:
        """What is known, under the names of samples."""
        named = {
            "process.cpu_s": self.cpu_s,
            "process.main_cpu_s": self.main_cpu_s,
            "process.main_run_queue_wait_s": self.main_wait_s,
            "process.main_switches": self.main_switches,
            "process.rss_bytes": self.rss_bytes,
            "process.threads": self.threads,
            "process.read_bytes": self.read_bytes,
            "process.written_bytes": self.written_bytes,
        }
        return {name: float(value) for name, value in named.items() if value is not None}


def read_vitals(pid: int, workers: Iterable[int] = ()) -> Vitals | None:
    """The vitals of a process, with the processes below it; None where it is gone."""
    try:
        process = psutil.Process(pid)
        state = process.status()
    except psutil.NoSuchProcess:
        return None
    if state in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
        return None
    cpu_s, moved = _cpu(pid), _io(pid)
    below = [(_cpu(worker) or 0.0, sum(_io(worker) or (0, 0))) for worker in workers]
    main = _main_times(pid)
    return Vitals(
        state=state,
        cpu_s=cpu_s,
        main_cpu_s=main and main[0],
        main_wait_s=main and main[1],
        main_switches=_main_switches(pid),
        rss_bytes=_allowed(lambda: process.memory_info().rss),
        threads=_allowed(process.num_threads),
        read_bytes=moved and moved[0],
        written_bytes=moved and moved[1],
        family_cpu_s=None if cpu_s is None else cpu_s + sum(cpu for cpu, _ in below),
        family_io_bytes=None if moved is None else sum(moved) + sum(io for _, io in below),
    )


def _allowed(read: Callable[[], int]) -> int | None:
    try:
        return read()
    except psutil.Error:
        return None


def _cpu(pid: int) -> float | None:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)


def _io(pid: int) -> tuple[int, int] | None:
    """Bytes read and written through system calls; only for who may trace the process."""
    told = _fields(f"/proc/{pid}/io")
    return (int(told["rchar"]), int(told["wchar"])) if {"rchar", "wchar"} <= told.keys() else None


def _main_times(pid: int) -> tuple[float, float] | None:
    """Seconds on a core and waiting for one; None where the kernel does not count them."""
    try:
        on_core, waited, _ = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()
    except (OSError, ValueError):
        return None
    return int(on_core) / 1e9, int(waited) / 1e9


def _main_switches(pid: int) -> int | None:
    told = _fields(f"/proc/{pid}/task/{pid}/status")
    names = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
    return sum(int(told[name]) for name in names) if set(names) <= told.keys() else None


def _fields(path: str) -> dict[str, str]:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
