"""What a simulated job has come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.resilience.ledger import Spent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.simulation.train.losses import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one seed.

    Attributes:
        wall_s: simulated.
        spent_s: by what the drivers' ledgers say it was spent on.
        incidents: by the cause that the driver saw.
        losses: by what had failed.
        attempts: starts, the first among them.
        given_up: how often the driver gave up, and a person had to come.
        replaced: hosts.
        steps: the job's last.
    """

    wall_s: float
    spent_s: Mapping[Spent, float]
    incidents: Mapping[str, int]
    losses: Mapping[str, Loss]
    attempts: int
    given_up: int
    replaced: int
    steps: int

    @property
    def effective(self) -> float:
        """Share of the wall clock that was productive."""
        return self.spent_s[Spent.PRODUCTIVE] / self.wall_s

    @property
    def gap(self) -> float:
        """By how much of the wall clock the causes miss it."""
        return abs(sum(self.spent_s.values()) - self.wall_s) / self.wall_s

    @property
    def failures(self) -> int:
        """How many there were."""
        return sum(loss.count for loss in self.losses.values())

    @property
    def recovery_s(self) -> float | None:
        """From a failure until the job is where it was, on average; None: nothing failed."""
        lost = sum(loss.seconds for loss in self.losses.values())
        return lost / self.failures if self.failures else None

    def share(self, spent: Spent) -> float:
        """Of the wall clock."""
        return self.spent_s[spent] / self.wall_s
