"""How long this process's control groups were stopped for having used up their cores."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError
from collectors.samplers.cgroup_files import read_cores, read_throttling
from collectors.samplers.cgroup_places import places_of
from collectors.samplers.sampler import Absent

if TYPE_CHECKING:
    from collections.abc import Callable

    from collectors.samplers.cgroup_places import Place

_LOOK_S = 1.0  # how often to look for the groups: a process is seldom put into another
_UNREADABLE = (Absent, OpsuiteError, OSError)


class Throttling:
    """Stops between successive readings, summed over cores, of the group that was stopped most.

    What came before a group was found counts when it is found: at most a second's.
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._limited: list[Place] = []
        self._stopped: dict[Path, float] = {}
        self._looked_s = float("-inf")
        self._look()
        self.added_s()

    def added_s(self) -> float:
        """Seconds since the last reading; 0 where nothing limits the process."""
        if self._clock() - self._looked_s >= _LOOK_S:
            self._look()
        return max((self._added(place) for place in self._limited), default=0.0)

    def _added(self, place: Place) -> float:
        try:
            stopped = read_throttling(place).stopped_s
        except _UNREADABLE:
            return 0.0  # the group has gone
        before = self._stopped.get(place.directory, 0.0)
        self._stopped[place.directory] = stopped
        return max(0.0, stopped - before)

    def _look(self) -> None:
        self._looked_s = self._clock()
        try:
            places = places_of(self._root, ("self",))
        except _UNREADABLE:
            places = []
        self._limited = [p for p in places if p.controller == "cpu" and _is_limited(p)]


def _is_limited(place: Place) -> bool:
    try:
        return read_cores(place) is not None
    except _UNREADABLE:
        return False
