"""What the files of a control group say, in version 1 and version 2 alike."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.samplers.sampler import Absent
from collectors.samplers.source import parsed

if TYPE_CHECKING:
    from collectors.samplers.cgroup_places import Place

_UNLIMITED_BYTES = 1 << 60  # version 1 says it with a number near the largest


@dataclass(frozen=True, kw_only=True)
class Throttling:
    """What a limit of cores cost since the group is there.

    Attributes:
        periods: in which its processes ran, or wanted to.
        stops: periods at whose end they were stopped.
        stopped_s: for how long, summed over cores.
    """

    periods: int
    stops: int
    stopped_s: float


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a group uses, and how many of its processes were killed; None: not counted here."""

    used_bytes: int
    oom_kills: int | None


def read_throttling(place: Place) -> Throttling:
    """What ``cpu.stat`` says.

    Raises:
        Absent, DataError, OSError: it cannot be read.
    """

    def parse(text: str) -> Throttling:
        stat = _keyed(text)
        return Throttling(
            periods=stat["nr_periods"],
            stops=stat["nr_throttled"],
            stopped_s=stat["throttled_usec"] / 1e6
            if place.unified
            else stat["throttled_time"] / 1e9,
        )

    return parsed(place.directory / "cpu.stat", parse)


def read_memory(place: Place) -> Memory:
    """What the group uses.

    Raises:
        Absent, DataError, OSError: it cannot be read.
    """
    used, events = "memory.usage_in_bytes", "memory.oom_control"
    if place.unified:
        used, events = "memory.current", "memory.events"
    kills = None
    with suppress(Absent):  # the topmost group has none
        kills = parsed(place.directory / events, lambda text: _keyed(text).get("oom_kill"))
    return Memory(used_bytes=parsed(place.directory / used, int), oom_kills=kills)


def read_memory_limit(place: Place) -> float | None:
    """How many bytes a group's processes may use together; None: no limit.

    Raises:
        Absent, DataError, OSError: it cannot be read.
    """
    name = "memory.max" if place.unified else "memory.limit_in_bytes"
    limit = parsed(
        place.directory / name, lambda text: None if text.strip() == "max" else int(text)
    )
    return None if limit is None or limit >= _UNLIMITED_BYTES else limit


def read_cores(place: Place) -> float | None:
    """How many cores a group's processes may use on average; None: all.

    Raises:
        Absent, DataError, OSError: it cannot be read.
    """
    if place.unified:
        return parsed(place.directory / "cpu.max", _cores_of_max)
    quota_us = parsed(place.directory / "cpu.cfs_quota_us", int)
    return None if quota_us < 0 else quota_us / parsed(place.directory / "cpu.cfs_period_us", int)


def _cores_of_max(text: str) -> float | None:
    quota_us, period_us = text.split()
    return None if quota_us == "max" else int(quota_us) / int(period_us)


def _keyed(text: str) -> dict[str, int]:
    """Lines of a name and a number."""
    return {key: int(value) for key, value in map(str.split, text.splitlines())}
