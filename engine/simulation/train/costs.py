"""What training, saving, noticing and starting again cost: a practice, every value with its source.

A pair is a range of seconds from which each occasion draws; its mean where only that matters.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - costs in a file are checked by annotations
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from engine.resilience.config import ResilienceConfig

Range = tuple[float, float]
_NONE = (0.0, 0.0)
_MARGIN = 3.0  # a time limit of the driver's is so many times what should take place within it


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """One way to run a job.

    Attributes:
        step_s: a step without saving.
        snapshot_every: steps between copies in memory, at a peer too; 0: none.
        snapshot_block_s: that a copy holds up the step.
        copy_s: until it is at the peer.
        checkpoint_every_s: of training, between checkpoints on disk.
        checkpoint_block_s: that one holds up the step.
        publish_s: until it is whole on the disk.
        report_s: until the end of a process is told.
        lost_after_s: silence after which a host is lost.
        overdue_factor, overdue_least_s: a step is overdue after so many usual ones, and at least
            that long.
        silent_s: until wrong numbers are noticed; all since then is lost.
        stop_s: to end all processes.
        check: whom to examine before starting again; ``check_s`` is what that takes.
        start_s: from the order to the first step, with the state restored.
        replenish_s: until a host that was taken away has a successor; None: never.
        standbys: hosts that wait.
        person_s: until a person has mended a job that its driver gave up.
        config: further fields of the driver's configuration.
        sources: of each value: "published: ...", "measured: ..." or "assumed: ...".
    """

    name: str
    step_s: float
    snapshot_every: int
    snapshot_block_s: Range
    copy_s: float
    checkpoint_every_s: float
    checkpoint_block_s: Range
    publish_s: float
    report_s: Range
    lost_after_s: float
    overdue_factor: float
    overdue_least_s: float
    silent_s: Range
    stop_s: Range
    check: Literal["never", "suspects", "always"]
    check_s: Range
    start_s: Range
    replenish_s: Range | None
    standbys: int
    person_s: Range
    beat_s: float = 0.5
    config: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def checkpoint_every(self) -> int:
        """The same in steps."""
        return max(1, round(self.checkpoint_every_s / self.step_s))

    @property
    def assumed(self) -> tuple[str, ...]:
        """Names of values that are neither published nor measured."""
        return tuple(
            name for name in COSTS if self.sources.get(name, "assumed").startswith("assumed")
        )

    def scaled(self, names: tuple[str, ...], factor: float) -> Costs:
        """With these values so many times as large; counts stay whole, and at least 1."""
        changed = {name: _scale(getattr(self, name), factor) for name in names}
        if "overdue_factor" in changed:
            changed["overdue_factor"] = max(2.0, changed["overdue_factor"])
        return replace(self, **changed)

    def configure(self, hosts: int) -> ResilienceConfig:
        """What a driver of this practice is configured with."""
        values: dict[str, Any] = {
            "recover": True,
            "hosts": hosts,
            "snapshot_every": self.snapshot_every,
            "beat_s": self.beat_s,
            "lost_after_s": self.lost_after_s,
            "overdue_factor": self.overdue_factor,
            "overdue_least_s": self.overdue_least_s,
            "check": self.check,
            "check_s": max(60.0, _MARGIN * self.check_s[1]),
            "start_s": max(300.0, _MARGIN * self.start_s[1]),
            "stop_s": max(8.0, _MARGIN * self.stop_s[1]),
            "gather_s": 600.0 + 2 * _MARGIN * (self.check_s[1] + (self.replenish_s or _NONE)[1]),
        }
        return ResilienceConfig(**{**values, **self.config})


COSTS = tuple(each.name for each in fields(Costs) if each.name not in {"name", "config", "sources"})


def mean(pair: Range) -> float:
    """Of a range."""
    return (pair[0] + pair[1]) / 2


def _scale(value: Any, factor: float) -> Any:  # noqa: ANN401 - a number, a range, or nothing
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(each * factor for each in value)
    if isinstance(value, int):
        return max(1, round(value * factor)) if value else 0
    return value * factor
