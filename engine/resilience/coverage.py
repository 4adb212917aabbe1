"""Which steps survive the loss of any one host, kept up to date as copies come and go.

A heartbeat tells of all that a host holds; only what is new in it is looked at, since a driver of
some thousand hosts hears several thousand heartbeats a second.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.resilience.hosts import Host
    from engine.resilience.messages import Copy, Place
    from engine.resilience.recovery_point import Lineage


class Coverage:
    """Counts, for each step and rank, the copies that are held elsewhere than where the rank runs;
    with one host: that are held at all.

    Args:
        lineage: as it is; when it changes, so does what counts: make another.
    """

    def __init__(self, places: Sequence[Place], lineage: Lineage) -> None:
        self._home = {rank: place.host for place in places for rank in place.ranks}
        self._alone = len(places) == 1
        self._lineage = lineage
        self._told: dict[str, tuple[Copy, ...]] = {}
        self._counts: defaultdict[int, Counter[int]] = defaultdict(Counter)

    def update(self, host: Host) -> None:
        """This one holds others than before."""
        self._hold(host.name, host.copies)

    def keep_only(self, hosts: Iterable[Host]) -> None:
        """Only these are connected; what others hold cannot be had."""
        here = {host.name: host for host in hosts}
        for name in self._told.keys() - here.keys():
            self._hold(name, ())
            del self._told[name]
        for host in here.values():
            if self._told.get(host.name) is not host.copies:
                self._hold(host.name, host.copies)

    @property
    def newest(self) -> int:
        """The newest step of which every rank's copy is held so; 0: there is none."""
        ranks = len(self._home)
        return max((step for step, held in self._counts.items() if len(held) == ranks), default=0)

    def _hold(self, host: str, copies: tuple[Copy, ...]) -> None:
        before, now = set(self._told.get(host, ())), set(copies)
        self._told[host] = copies
        for copy in now - before:
            if self._counts_at(copy, host):
                self._counts[copy.step][copy.rank] += 1
        for copy in before - now:
            if self._counts_at(copy, host):
                self._drop(copy)

    def _drop(self, copy: Copy) -> None:
        held = self._counts[copy.step]
        held[copy.rank] -= 1
        if not held[copy.rank]:
            del held[copy.rank]
        if not held:
            del self._counts[copy.step]

    def _counts_at(self, copy: Copy, host: str) -> bool:
        home = self._home.get(copy.rank)
        return home is not None and (self._alone or home != host) and self._lineage.holds(copy)
