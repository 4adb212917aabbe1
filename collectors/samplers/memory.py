"""The memory of the host.

Samples each 5 s: ``host.memory_total_bytes``, ``host.memory_available_bytes``,
``host.swap_used_bytes``, ``host.dirty_bytes`` (to be written to disks). Once a second:
``host.page_faults_per_s``, ``host.major_faults_per_s`` (that waited for a disk),
``host.swap_in_bytes_per_s``, ``host.swap_out_bytes_per_s``. Event ``host.oom_kill``: the kernel
killed ``count`` processes of this host for want of memory.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from collectors.level import Level, declare
from collectors.samplers.counters import Counters
from collectors.samplers.sampler import Happening, Reading
from collectors.samplers.source import parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

declare(Level.SAMPLED, "host.")
declare(Level.ALWAYS, "host.oom_kill")

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_RATES = {
    "pgfault": ("host.page_faults_per_s", 1),
    "pgmajfault": ("host.major_faults_per_s", 1),
    "pswpin": ("host.swap_in_bytes_per_s", _PAGE_BYTES),
    "pswpout": ("host.swap_out_bytes_per_s", _PAGE_BYTES),
}


class MemorySampler:
    """``/proc/meminfo``."""

    name = "memory"
    period_s = 5.0

    def __init__(self, root: Path) -> None:
        self._path = root / "proc/meminfo"

    def read(self) -> Sequence[Reading]:
        """What there is, and what is free.

        Raises:
            Absent: this is not Linux.
            DataError, OSError: it cannot be read.
        """
        sizes = parsed(self._path, _read_sizes)
        told = {
            "memory_total_bytes": sizes["MemTotal"],
            "memory_available_bytes": sizes.get("MemAvailable"),
            "swap_used_bytes": sizes.get("SwapTotal", 0) - sizes.get("SwapFree", 0),
            "dirty_bytes": sizes.get("Dirty"),
        }
        return [Reading(f"host.{name}", size) for name, size in told.items() if size is not None]

    def close(self) -> None:
        """Nothing is held."""


def _read_sizes(text: str) -> dict[str, int]:
    """Bytes by name; what has no unit counts pages, and is left out."""
    sizes = {}
    for line in text.splitlines():
        name, _, amount = line.partition(":")
        if amount.endswith(" kB"):
            sizes[name] = int(amount[:-3]) * 1024
    if "MemTotal" not in sizes:
        raise ValueError("no total")
    return sizes


class PagingSampler:
    """``/proc/vmstat``."""

    name = "paging"
    period_s = 1.0

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = root / "proc/vmstat"
        self._clock = clock
        self._counters = Counters()

    def read(self) -> Sequence[Reading | Happening]:
        """What moved, and who was killed, since the last reading.

        Raises:
            Absent: this is not Linux.
            DataError, OSError: it cannot be read.
        """
        counts = parsed(self._path, _read_counts)
        now_s = self._clock()
        found: list[Reading | Happening] = []
        for counter, (name, unit) in _RATES.items():
            if counter not in counts:
                continue
            per_s = self._counters.per_s(counter, counts[counter], now_s)
            if per_s is not None:
                found.append(Reading(name, per_s * unit))
        killed = self._counters.added("oom_kill", counts.get("oom_kill", 0))
        if killed:
            found.append(Happening("host.oom_kill", {"count": int(killed)}, killed))
        return found

    def close(self) -> None:
        """Nothing is held."""


def _read_counts(text: str) -> dict[str, int]:
    counts = {}
    for line in text.splitlines():
        name, count = line.split()
        if name in _RATES or name == "oom_kill":
            counts[name] = int(count)
    if not counts:
        raise ValueError("nothing of what is looked for")
    return counts
