"""What a job can go back to: copies in memory, checkpoints, and which of both it may trust."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.resilience.coverage import Coverage
from engine.resilience.effects import FindOnDisk
from engine.resilience.recovery_point import (
    Lineage,
    RecoveryPoint,
    newest,
    newest_in_memory,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.resilience.effects import Outbox
    from engine.resilience.hosts import Host
    from engine.resilience.messages import Place


class Past:
    """Of one job.

    Args:
        ranks: in all.
        on_disk: step of the newest checkpoint, which was found whole; 0: there is none.

    Attributes:
        acknowledged: the newest step that the loss of any one host leaves.
        on_disk: the newest step of which this job's past has a checkpoint; there may be later ones,
            of what was given up.
    """

    lineage_class = Lineage

    def __init__(self, ranks: int, on_disk: int, outbox: Outbox) -> None:
        self._ranks = ranks
        self._outbox = outbox
        self.lineage = self.lineage_class()
        self.acknowledged = on_disk
        self.on_disk = on_disk
        self._disk_checked = True
        self._disk_asked = False
        self._limit: int | None = None
        self._coverage: Coverage | None = None

    def distrust_after(self, step: int) -> None:
        """States after later steps may be bad."""
        self._limit = step if self._limit is None else min(step, self._limit)

    def saved(self, step: int) -> None:
        """A checkpoint was published."""
        self.on_disk = max(self.on_disk, step)
        self._disk_checked = False

    def found_on_disk(self, step: int) -> None:
        """The answer of :class:`FindOnDisk`."""
        if self._disk_asked:  # else the job has gone on without it
            self.on_disk = step
            self._disk_checked, self._disk_asked = True, False

    def acknowledge(self, host: Host, roster: Iterable[Host], places: Sequence[Place]) -> None:
        """Copies have come to a host."""
        coverage = self._coverage or Coverage(places, self.lineage)
        self._coverage = coverage
        coverage.update(host)
        if coverage.newest > self.acknowledged:  # unless one that held them is gone meanwhile
            coverage.keep_only(each for each in roster if each.here)
            self.acknowledged = max(self.acknowledged, coverage.newest)

    @property
    def expected(self) -> int:
        """Where the job can go on, unless more than one host was lost."""
        return self.acknowledged if self._limit is None else min(self.acknowledged, self._limit)

    def point(self, hosts: Sequence[Host], places: Sequence[Place]) -> RecoveryPoint | None:
        """Where to go on; None while the disk is being asked."""
        order = {place.host: place.first for place in places}
        preferred = sorted(hosts, key=lambda host: (order.get(host.name, self._ranks), host.name))
        held = {host.name: host.copies for host in preferred}
        memory = newest_in_memory(held, self._ranks, self.lineage, self._limit)
        on_disk = self.on_disk if self._limit is None else min(self.on_disk, self._limit)
        if memory is not None and memory.step >= on_disk:
            return memory
        if not on_disk or (on_disk == self.on_disk and self._disk_checked):
            return newest(memory, on_disk)
        if not self._disk_asked:
            self._disk_asked = True
            self._ask(on_disk)
        return None

    def _ask(self, at_most: int) -> None:
        self._outbox.add(FindOnDisk(at_most=at_most))

    def go_on(self, attempt: int, step: int) -> None:
        """An attempt begins after ``step``; what was beyond is given up, on the disk too."""
        self.lineage.begin(attempt, step)
        self._coverage = None  # ranks may be elsewhere now, and copies of what was given up
        self._limit = None
        self.acknowledged = min(self.acknowledged, step)
        self.on_disk = min(self.on_disk, step)
        self._disk_checked = self._disk_asked = False  # it may be damaged before it is needed

    def to_json(self) -> dict[str, Any]:
        """For the next driver."""
        return {
            "lineage": sorted(self.lineage.starts.items()),
            "acknowledged": self.acknowledged,
            "on_disk": self.on_disk,
            "limit": self._limit,
        }

    def take_over(self, past: Mapping[str, Any]) -> None:
        """Back from data."""
        self.lineage = self.lineage_class((attempt, step) for attempt, step in past["lineage"])
        self.acknowledged = past["acknowledged"]
        self.on_disk = past["on_disk"]  # what is there beyond may be of what was given up
        self._disk_checked = False
        self._limit = past["limit"]
