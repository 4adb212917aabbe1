"""How far training comes in how long, in closed form: no step is simulated by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.resilience.messages import StepDone
from engine.simulation.train.costs import mean

if TYPE_CHECKING:
    from engine.simulation.train.costs import Costs

_SINGLE = 32  # the last steps one by one: rules take the usual length of a step from so many


@dataclass(frozen=True, slots=True)
class Pace:
    """Steps have one length; saving comes on top, where the number of the step says so."""

    step_s: float
    snapshot_every: int
    snapshot_block_s: float
    checkpoint_every: int
    checkpoint_block_s: float

    @classmethod
    def of(cls, costs: Costs) -> Pace:
        """What a practice makes of it."""
        return cls(
            step_s=costs.step_s,
            snapshot_every=costs.snapshot_every,
            snapshot_block_s=mean(costs.snapshot_block_s),
            checkpoint_every=costs.checkpoint_every,
            checkpoint_block_s=mean(costs.checkpoint_block_s),
        )

    def saving_s(self, after: int, last: int) -> float:
        """Seconds of steps ``after + 1`` to ``last`` that saving takes."""
        checkpoints = last // self.checkpoint_every - after // self.checkpoint_every
        seconds = checkpoints * self.checkpoint_block_s
        if self.snapshot_every:
            snapshots = last // self.snapshot_every - after // self.snapshot_every
            seconds += snapshots * self.snapshot_block_s
        return seconds

    def seconds(self, after: int, last: int) -> float:
        """Of steps ``after + 1`` to ``last``."""
        return (last - after) * self.step_s + self.saving_s(after, last)

    def reached(self, after: int, seconds: float) -> int:
        """The last step that is done so long after the beginning of step ``after + 1``."""
        low, high = after, after + int(seconds / self.step_s) + 1
        while low < high:  # low is done
            middle = (low + high + 1) // 2
            if self.seconds(after, middle) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low

    def newest(self, every: int, after: int, seconds: float) -> int:
        """The last multiple of ``every`` that is done by then; 0: none."""
        return self.reached(after, seconds) // every * every if every and seconds > 0 else 0

    def told(self, after: int, last: int, best: int) -> tuple[StepDone, ...]:
        """What rank 0 tells of these steps: many at once, but apart what was done before."""
        ends = sorted({min(max(best, after), last), max(after, last - _SINGLE)} - {after})
        ends += range(max(after, last - _SINGLE) + 1, last + 1)
        done = []
        for end in sorted(set(ends)):
            saving_s = self.saving_s(after, end)
            seconds = (end - after) * self.step_s + saving_s
            done.append(StepDone(rank=0, step=end, seconds=seconds, checkpoint_s=saving_s))
            after = end
        return tuple(done)
