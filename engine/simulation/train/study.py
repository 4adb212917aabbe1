"""Several seeds of a practice, and what would help it most.

All variants meet the same failures, so that differences are between the variants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from engine.simulation.train.estimate import Estimate
from engine.simulation.train.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.simulation.train.costs import Costs
    from engine.simulation.train.failures import Load
    from engine.simulation.train.outcome import Outcome
    from engine.simulation.train.scale import Scale

KNOBS = {
    "checkpoint interval": ("checkpoint_every_s",),
    "checkpoint's hold-up": ("checkpoint_block_s",),
    "time to publish a checkpoint": ("publish_s",),
    "snapshot interval": ("snapshot_every",),
    "snapshot's hold-up": ("snapshot_block_s",),
    "time to copy to a peer": ("copy_s",),
    "detection time": (
        "report_s",
        "lost_after_s",
        "overdue_factor",
        "overdue_least_s",
        "silent_s",
        "beat_s",
    ),
    "self-check time": ("check_s",),
    "restart time": ("start_s", "stop_s"),
    "time to replace a host": ("replenish_s",),
    "standby count": ("standbys",),
    "time until a person comes": ("person_s",),
}
"""What can be halved and doubled: the costs that each is made of."""

FAILURES = "rate of failures"
EXAMINED = "which hosts are examined"
CHECKS: tuple[Literal["suspects", "always"], ...] = ("suspects", "always")

PARTS = {
    "copies in memory": ("snapshot_every", "snapshot_block_s", "copy_s"),
    "warm standbys": ("start_s", "stop_s", "replenish_s", "standbys"),
    "detection": KNOBS["detection time"],
    f"{EXAMINED}, and how long": ("check", "check_s"),
}
"""What one practice can take over from another: the costs that each is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A practice's runs.

    Attributes:
        outcomes: one of each seed.
    """

    costs: Costs
    outcomes: tuple[Outcome, ...]

    @property
    def effective(self) -> Estimate:
        """Effective training time."""
        return Estimate.of([each.effective for each in self.outcomes])

    def average(self, figure: Callable[[Outcome], float]) -> float:
        """Of all seeds."""
        return sum(map(figure, self.outcomes)) / len(self.outcomes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A variant against the practice as it is.

    Attributes:
        name: what was changed.
        how: "halved", "doubled", the other value, or "as PRACTICE".
        effective: of the variant.
        gain: effective training time more than before, seed by seed.
    """

    name: str
    how: str
    effective: Estimate
    gain: Estimate


@dataclass(frozen=True, slots=True)
class Studies:
    """Runs variants of a job.

    Attributes:
        ran: is called after each run.
    """

    scale: Scale
    load: Load
    seeds: Sequence[int]
    ran: Callable[[], None] = lambda: None

    def study(self, costs: Costs, load: Load | None = None) -> Study:
        """Every seed once."""
        outcomes = []
        for seed in self.seeds:
            outcomes.append(Job(self.scale, costs, load or self.load, seed).run())
            self.ran()
        return Study(costs=costs, outcomes=tuple(outcomes))

    def variants(self, costs: Costs) -> list[tuple[str, str, Costs, Load]]:
        """Each knob halved and doubled, but for what is nothing anyway; and other examinations."""
        found = []
        for how, factor in (("halved", 0.5), ("doubled", 2.0)):
            for name, fields in KNOBS.items():
                changed = costs.scaled(fields, factor)
                if changed != costs:
                    found.append((name, how, changed, self.load))
            rarer = replace(self.load, every_s=self.load.every_s / factor)
            found.append((FAILURES, how, costs, rarer))
        others = [check for check in CHECKS if check != costs.check]
        found += [(EXAMINED, check, replace(costs, check=check), self.load) for check in others]
        return found

    def what_if(self, study: Study) -> list[Change]:
        """What helps most first."""
        changes = [
            self._compare(study, name, how, costs, load)
            for name, how, costs, load in self.variants(study.costs)
        ]
        return sorted(changes, key=lambda change: -change.gain.value)

    def take_over(self, study: Study, other: Costs) -> list[Change]:
        """Each part as the other practice has it, and then all of them; the best first."""
        together = tuple(name for names in PARTS.values() for name in names)
        changes = []
        for part, names in {**PARTS, "all of these": together}.items():
            costs = replace(study.costs, **{name: getattr(other, name) for name in names})
            changes.append(self._compare(study, part, f"as {other.name}", costs, self.load))
        return sorted(changes, key=lambda change: -change.gain.value)

    def _compare(self, before: Study, name: str, how: str, costs: Costs, load: Load) -> Change:
        after = self.study(costs, load)
        gains = [
            new.effective - old.effective
            for new, old in zip(after.outcomes, before.outcomes, strict=True)
        ]
        return Change(name=name, how=how, effective=after.effective, gain=Estimate.of(gains))
