"""Faults of one host: named, or the one that has a rank when it strikes."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.faults.keys import host_or_rank, key
from engine.faults.outside import OutsideFault
from engine.faults.rank_fault import misfit_of_rank

if TYPE_CHECKING:
    from engine.faults.scene import Scene


@dataclass(frozen=True, kw_only=True)
class HostFault(OutsideFault, ABC):
    """Strikes one host."""

    host: str = key("the host that it strikes: its name, or @RANK for that rank's", host_or_rank)

    def misfit(self, *, world_size: int, steps: int) -> str:
        wrong = misfit_of_rank(self._rank, world_size) if self._rank is not None else ""
        return wrong or super().misfit(world_size=world_size, steps=steps)

    def struck_host(self, scene: Scene) -> str:
        """Its name, now.

        Raises:
            LookupError: no host has the rank.
        """
        return self.host if self._rank is None else scene.host_of(self._rank)

    @property
    def _rank(self) -> int | None:
        return int(self.host[1:]) if self.host.startswith("@") else None
