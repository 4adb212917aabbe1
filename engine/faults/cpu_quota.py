"""A rank that may use its cores only part of the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.faults.cgroup import OwnCgroup, why_no_cgroup
from engine.faults.keys import between, key
from engine.faults.rank_fault import Condition, LastingFault

if TYPE_CHECKING:
    from engine.faults.place import Place

_PERIOD_US = 100_000  # the kernel's own default


@dataclass(frozen=True, kw_only=True)
class CpuQuota(LastingFault):
    """During some steps, the kernel gives one rank a share of a core only."""

    name: ClassVar[str] = "cpu-quota"
    needs: ClassVar[str] = "root, and cpu cgroups of version 1"

    percent: int = key("what it may use, 100 being one core", between(1, 10_000))

    def unavailable(self, *, unpinned: str) -> str:
        return why_no_cgroup("cpu")

    def hook(self, place: Place) -> Throttled:
        return Throttled(self, place, self.percent)


class Throttled(Condition):
    """The quota of a control group of this process alone."""

    def __init__(self, fault: CpuQuota, place: Place, percent: int) -> None:
        super().__init__(fault, place)
        self._limits = {
            "cpu.cfs_period_us": _PERIOD_US,
            "cpu.cfs_quota_us": _PERIOD_US * percent // 100,
        }
        self._group: OwnCgroup | None = None

    def begin(self) -> None:
        self._group = OwnCgroup("cpu", self._limits)

    def undo(self) -> None:
        if self._group is not None:
            self._group.close()
