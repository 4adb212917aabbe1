"""The processors of the host: who uses them, and who waits for them.

Samples, once a second: ``host.cpu_util_pct``, ``host.cpu_user_pct``, ``host.cpu_system_pct``,
``host.cpu_iowait_pct``, ``host.cpu_steal_pct`` (taken by other guests of the machine), of all
cores together; ``host.busiest_core_pct``; ``host.cores``; ``host.tasks_running``;
``host.tasks_blocked`` (in the kernel, mostly for a disk). Each 5 s: ``host.load_1m``. Where the
kernel counts it: ``host.run_queue_wait_s_per_s``, how many tasks waited for a core on average.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from collectors.level import Level, declare
from collectors.samplers.counters import Counters
from collectors.samplers.sampler import Absent, Reading
from collectors.samplers.source import Denied, parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

declare(Level.SAMPLED, "host.")

_USER, _NICE, _SYSTEM, _IDLE, _IOWAIT, _IRQ, _SOFTIRQ, _STEAL = range(8)
_SHARES = {
    "user": (_USER, _NICE),
    "system": (_SYSTEM, _IRQ, _SOFTIRQ),
    "iowait": (_IOWAIT,),
    "steal": (_STEAL,),
}
_TASKS = {"procs_running": "host.tasks_running", "procs_blocked": "host.tasks_blocked"}


class ProcessorSampler:
    """``/proc/stat``."""

    name = "cpu"
    period_s = 1.0

    def __init__(self, root: Path) -> None:
        self._path = root / "proc/stat"
        self._ticks: dict[str, list[int]] = {}

    def read(self) -> Sequence[Reading]:
        """How the time since the last reading was used.

        Raises:
            Absent: this is not Linux.
            DataError, OSError: it cannot be read.
        """
        ticks, tasks = parsed(self._path, _read_stat)
        before, self._ticks = self._ticks, ticks
        found = [Reading(name, count) for name, count in tasks]
        found.append(Reading("host.cores", len(ticks) - 1))
        used = {
            cpu: [now - then for now, then in zip(ticks[cpu], before[cpu], strict=True)]
            for cpu in ticks
            if cpu in before
        }
        if (all_cores := used.pop("cpu", None)) and sum(all_cores) > 0:
            found += _shares(all_cores)
        busiest = [_busy_pct(deltas) for deltas in used.values() if sum(deltas) > 0]
        if busiest:
            found.append(Reading("host.busiest_core_pct", max(busiest)))
        return found

    def close(self) -> None:
        """Nothing is held."""


def _read_stat(text: str) -> tuple[dict[str, list[int]], list[tuple[str, int]]]:
    """Ticks of all cores ("cpu") and of each, and how many tasks do what."""
    ticks: dict[str, list[int]] = {}
    tasks = []
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word.startswith("cpu"):
            ticks[word] = [int(count) for count in rest.split()[: _STEAL + 1]]
        elif word in _TASKS:
            tasks.append((_TASKS[word], int(rest)))
    if len(ticks["cpu"]) <= _STEAL:
        raise ValueError("too few columns")
    return ticks, tasks


def _shares(deltas: list[int]) -> list[Reading]:
    """Of one's time, in per cent; iowait may fall on some kernels, and then counts as none."""
    total = sum(max(delta, 0) for delta in deltas)
    found = [Reading("host.cpu_util_pct", _busy_pct(deltas))]
    for share, columns in _SHARES.items():
        used = sum(max(deltas[column], 0) for column in columns)
        found.append(Reading(f"host.cpu_{share}_pct", 100.0 * used / total))
    return found


def _busy_pct(deltas: list[int]) -> float:
    total = sum(max(delta, 0) for delta in deltas)
    idle = max(deltas[_IDLE], 0) + max(deltas[_IOWAIT], 0)
    return 100.0 * (total - idle) / total


class LoadSampler:
    """``/proc/loadavg``."""

    name = "load"
    period_s = 5.0

    def __init__(self, root: Path) -> None:
        self._path = root / "proc/loadavg"

    def read(self) -> Sequence[Reading]:
        """The load average.

        Raises:
            Absent: this is not Linux.
            DataError, OSError: it cannot be read.
        """
        return [Reading("host.load_1m", parsed(self._path, lambda text: float(text.split()[0])))]

    def close(self) -> None:
        """Nothing is held."""


class RunQueueSampler:
    """``/proc/schedstat``: how long tasks waited for a core that they could have used."""

    name = "run-queue"
    period_s = 1.0

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = root / "proc/schedstat"
        self._clock = clock
        self._counters = Counters()

    def read(self) -> Sequence[Reading]:
        """Seconds waited a second, over all cores.

        Raises:
            Absent: the kernel does not count it.
            DataError, OSError: it cannot be read.
        """
        try:
            waited_ns = parsed(self._path, _read_waited)
        except Denied:
            raise
        except Absent as absent:
            why = f"{absent} (a kernel without CONFIG_SCHEDSTATS); PSI tells nearly the same"
            raise Absent(why) from absent
        per_s = self._counters.per_s("waited", waited_ns / 1e9, self._clock())
        return [] if per_s is None else [Reading("host.run_queue_wait_s_per_s", per_s)]

    def close(self) -> None:
        """Nothing is held."""


def _read_waited(text: str) -> int:
    """Of each core's line the eighth number: nanoseconds for which tasks were runnable."""
    cores = [line.split() for line in text.splitlines() if line.startswith("cpu")]
    if not cores:
        raise ValueError("no core")
    return sum(int(core[8]) for core in cores)
