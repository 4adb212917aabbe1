"""Limits of the control groups that the run's processes, and the collector, are in.

Samples, once a second. Of each group that limits the use of cores: ``cgroup.<group>.cpu_limit``
(in cores), ``cgroup.<group>.throttled_pct`` (of its periods in which it ran) and
``cgroup.<group>.throttled_s_per_s`` (summed over its threads' cores). Of each group that a process
is in, and those above it that limit memory: ``cgroup.<group>.memory_bytes``,
``cgroup.<group>.memory_limit_bytes``.

Events: ``cgroup.throttled``, in how many ``periods`` a ``cgroup`` was stopped, and for how long,
since it was told last; ``cgroup.oom_kill``, how many of its processes were killed (``count``).
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from collectors.level import Level, declare
from collectors.samplers.cgroup_files import (
    read_cores,
    read_memory,
    read_memory_limit,
    read_throttling,
)
from collectors.samplers.cgroup_places import places_of
from collectors.samplers.counters import Counters
from collectors.samplers.parts import Parts
from collectors.samplers.sampler import Absent, Happening, Reading
from collectors.samplers.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from collectors.samplers.cgroup_places import Place

declare(Level.SAMPLED, "cgroup.")
declare(Level.ALWAYS, "cgroup.throttled", "cgroup.oom_kill")

_LOOK_S = 10.0  # limits and groups seldom change


class _Kept:
    """What is kept of a group between two readings."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.throttled = Tally()


class CgroupSampler:
    """Control groups of version 1 and 2.

    Args:
        pids: gives the processes to look at, beside this one.
    """

    name = "cgroup"
    period_s = 1.0

    def __init__(
        self,
        root: Path,
        pids: Callable[[], Iterable[int]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._pids = pids
        self._clock = clock
        self._parts = Parts(self.name)
        self._looked_s = float("-inf")
        self._looked_at: tuple[str, ...] = ()
        self._places: list[tuple[Place, float | None]] = []
        self._kept: dict[Path, _Kept] = {}

    def read(self) -> Sequence[Reading | Happening]:
        """What the groups used, and what their limits cost, since the last reading.

        Raises:
            Absent: the processes are in no group that says anything.
            DataError, OSError: none can be read.
        """
        now_s = self._clock()
        self._look(now_s)
        parts: dict[str, Callable[[], Iterable[Reading | Happening]]] = {}
        for place, limit in self._places:
            read = self._cpu if place.controller == "cpu" else self._memory
            parts[f"{place.group} {place.controller}"] = partial(read, place, limit, now_s)
        try:
            return self._parts.read(parts, now_s)
        except Absent:
            self._looked_s = float("-inf")  # they have gone: perhaps there are others
            raise

    def close(self) -> None:
        """Nothing is held."""

    def _look(self, now_s: float) -> None:
        processes = ("self", *(str(pid) for pid in sorted(self._pids())))
        if processes == self._looked_at and now_s - self._looked_s < _LOOK_S:
            return
        places = places_of(self._root, processes)
        self._places = [chosen for place in places if (chosen := _chosen(place))]
        self._looked_at, self._looked_s = processes, now_s
        here = {place.directory for place, _ in self._places}
        self._kept = {path: self._kept.get(path) or _Kept() for path in here}
        if not self._places:
            raise Absent(
                "the processes are in no control group that limits cores, or counts memory"
            )

    def _cpu(
        self, place: Place, limit: float | None, now_s: float
    ) -> Iterable[Reading | Happening]:
        stat = read_throttling(place)
        kept, name = self._kept[place.directory], f"cgroup.{place.group}"
        periods = kept.counters.added("periods", stat.periods)
        stops = kept.counters.added("stops", stat.stops)
        per_s = kept.counters.per_s("stopped_s per s", stat.stopped_s, now_s)
        if limit is not None:
            yield Reading(f"{name}.cpu_limit", limit)
        if periods:
            yield Reading(f"{name}.throttled_pct", 100.0 * min(stops / periods, 1.0))
        if per_s is not None:
            yield Reading(f"{name}.throttled_s_per_s", per_s)
        came = {"periods": stops, "throttled_s": kept.counters.added("stopped_s", stat.stopped_s)}
        told = kept.throttled.add(came if stops else {}, now_s)
        if told:
            attributes = {"cgroup": place.group, "cpu_limit": limit, **told}
            yield Happening("cgroup.throttled", attributes, told["periods"])

    def _memory(self, place: Place, limit: float | None, _: float) -> Iterable[Reading | Happening]:
        memory = read_memory(place)
        name = f"cgroup.{place.group}"
        yield Reading(f"{name}.memory_bytes", memory.used_bytes)
        if limit is not None:
            yield Reading(f"{name}.memory_limit_bytes", limit)
        if memory.oom_kills is None:
            return
        killed = self._kept[place.directory].counters.added("oom_kills", memory.oom_kills)
        if killed:
            attributes = {"cgroup": place.group, "count": int(killed)}
            yield Happening("cgroup.oom_kill", attributes, killed)


def _chosen(place: Place) -> tuple[Place, float | None] | None:
    """A group with its limit; None where it says nothing: it has none, and no process is in it."""
    with suppress(Absent):  # the controller is not switched on at this group
        if place.controller == "cpu":
            cores = read_cores(place)
            return None if cores is None else (place, cores)
        limit = read_memory_limit(place)
        return (place, limit) if place.own or limit is not None else None
    return None
