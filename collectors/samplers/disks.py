"""Disks, and the room on the file system that opsuite writes to.

Samples each 5 s, of real devices (not of partitions, loops or what is stacked upon them):
``disk.<device>.read_bytes_per_s``, ``disk.<device>.write_bytes_per_s``, ``disk.<device>.iops``,
``disk.<device>.util_pct`` (share of the time in which a request was under way), and
``disk.<device>.wait_s`` (per request, where there were any). ``host.home_free_bytes``.
"""

from __future__ import annotations

import os
import time
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from collectors.level import Level, declare
from collectors.samplers.counters import Counters
from collectors.samplers.sampler import Absent, Reading
from collectors.samplers.source import names_in, parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

declare(Level.SAMPLED, "disk.", "host.")

_SECTOR_BYTES = 512  # in /proc/diskstats, whatever the device's own are


@dataclass(frozen=True, kw_only=True)
class _Totals:
    """What a device did since it is there."""

    read_bytes: float
    write_bytes: float
    requests: float
    busy_s: float
    waited_s: float


class DiskSampler:
    """``/proc/diskstats``."""

    name = "disks"
    period_s = 5.0

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = root / "proc/diskstats"
        self._block = root / "sys/block"
        self._clock = clock
        self._counters: dict[str, Counters] = {}

    def read(self) -> Sequence[Reading]:
        """What each device did since the last reading.

        Raises:
            Absent: there is no real device, or it may not be looked at.
            DataError, OSError: it cannot be read.
        """
        devices = parsed(self._path, _read_devices)
        real = [name for name in names_in(self._block) if (self._block / name / "device").exists()]
        now_s = self._clock()
        here = [name for name in real if name in devices]
        if not here:
            raise Absent(f"{self._path} has no device of {self._block} that is a real disk")
        self._counters = {name: self._counters.get(name) or Counters() for name in here}
        return [one for name in here for one in self._rates(name, devices[name], now_s)]

    def close(self) -> None:
        """Nothing is held."""

    def _rates(self, device: str, totals: _Totals, now_s: float) -> list[Reading]:
        counters = self._counters[device]
        rates = [
            counters.per_s(str(index), total, now_s) for index, total in enumerate(astuple(totals))
        ]
        read, written, requests, busy, waited = rates
        told = {
            "read_bytes_per_s": read,
            "write_bytes_per_s": written,
            "iops": requests,
            "util_pct": None if busy is None else 100.0 * min(busy, 1.0),
            "wait_s": waited / requests if waited is not None and requests else None,
        }
        return [
            Reading(f"disk.{device}.{name}", value)
            for name, value in told.items()
            if value is not None
        ]


def _read_devices(text: str) -> dict[str, _Totals]:
    devices = {}
    for line in text.splitlines():
        _, _, name, *fields = line.split()
        counts = [int(field) for field in fields]
        devices[name] = _Totals(
            read_bytes=counts[2] * _SECTOR_BYTES,
            write_bytes=counts[6] * _SECTOR_BYTES,
            requests=counts[0] + counts[4],
            busy_s=counts[9] / 1e3,
            waited_s=(counts[3] + counts[7]) / 1e3,
        )
    return devices


class RoomSampler:
    """The file system of a directory. It can hang where that is a network's."""

    name = "room"
    period_s = 5.0

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> Sequence[Reading]:
        """What of it is free.

        Raises:
            Absent: the directory is not there, or may not be looked at.
            OSError: it cannot be asked.
        """
        try:
            told = os.statvfs(self._directory)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise Absent(f"{self._directory}: {error.strerror}") from error
        return [Reading("host.home_free_bytes", told.f_bavail * told.f_frsize)]

    def close(self) -> None:
        """Nothing is held."""
