"""A step that instances are at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.elastic.iteration import GroupIteration
    from engine.serving.fleet.texts import Left
    from engine.serving.instances.step import Done, Run, Step
    from engine.serving.sampling.sampler import Chosen


@dataclass(slots=True, eq=False)
class Flight:
    """Attributes:
    keep: of each work, the slots of its new keys and values.
    left_behind: slots that copies are made of, free when it is over.
    begun_s: on the manager's clock.
    missing: instances that have given no account.
    torn: whether an instance of it was lost: it comes to nothing.
    """

    iteration: GroupIteration
    step: Step
    keep: list[tuple[Run, ...]]
    left_behind: list[Left]
    begun_s: float
    missing: set[int]
    torn: bool = False
    accounts: list[Done] = field(default_factory=list)

    def take(self, done: Done) -> None:
        """One instance's account."""
        self.missing.discard(done.instance)
        self.accounts.append(done)
        self.torn = self.torn or done.lost is not None

    def lose(self, instance: int) -> None:
        """Its slots are nobody's: another pool may have the same numbers soon."""
        self.keep = [tuple(run for run in keep if run.instance != instance) for keep in self.keep]
        self.left_behind = [each for each in self.left_behind if each.run.instance != instance]

    @property
    def chosen(self) -> dict[int, Chosen]:
        """Next tokens, by request."""
        return {number: token for each in self.accounts for number, token in each.chosen}

    @property
    def failed(self) -> frozenset[int]:
        """Requests that have none."""
        return frozenset(number for each in self.accounts for number in each.failed)

    @property
    def seconds(self) -> float:
        """Of the instance that was at it for longest."""
        return max((each.seconds for each in self.accounts), default=0.0)
