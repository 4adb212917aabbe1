"""How large a job is, and how much of it is simulated."""

from __future__ import annotations

from dataclasses import dataclass

_FEW = 8  # hosts, when only the rate of failures of the whole job matters
_RANKS = 2  # of each; not one, since what the first rank tells stands for all


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Of a job.

    What happens follows from failures of the job as a whole and from the hosts that they hit. So a
    large job is simulated with few hosts of few ranks, which fail as often as all would; ``exact``
    simulates every host and rank. Both give the same, see docs/simulation.md.

    Attributes:
        duration_s: simulated.
    """

    hosts: int
    gpus_per_host: int
    duration_s: float
    exact: bool = False

    @property
    def gpus(self) -> int:
        """In all."""
        return self.hosts * self.gpus_per_host

    @property
    def _condensed(self) -> bool:
        return self.hosts > _FEW and not self.exact

    @property
    def simulated_hosts(self) -> int:
        """That the driver knows, without those that stand by."""
        return _FEW if self._condensed else self.hosts

    @property
    def ranks_per_host(self) -> int:
        """That the driver knows."""
        return _RANKS if self._condensed else self.gpus_per_host
