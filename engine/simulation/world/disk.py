"""The shared disk: checkpoints, and what each driver leaves to the next."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Disk:
    """Of one job.

    Attributes:
        checkpoints: the state by step, and whether the checkpoint is whole.
        left: by generation, what a driver has written last.
        damaged_s: when one was damaged last.
    """

    checkpoints: dict[int, tuple[int, bool]] = field(default_factory=dict)
    left: dict[int, str] = field(default_factory=dict)
    damaged_s: float = 0.0

    def save(self, step: int, state: int) -> None:
        """A checkpoint is published, in place of one of the same step."""
        self.checkpoints[step] = (state, True)

    def load(self, step: int) -> int | None:
        """The state after a step; None: there is no whole checkpoint."""
        state, whole = self.checkpoints.get(step, (0, False))
        return state if whole else None

    def newest_whole(self, at_most: int | None) -> int:
        """Step of the newest whole checkpoint; 0: there is none."""
        whole = (step for step, (_, whole) in self.checkpoints.items() if whole)
        return max((step for step in whole if at_most is None or step <= at_most), default=0)

    def damage(self, now: float) -> bool:
        """The newest checkpoint is not whole any more; whether there was one."""
        step = self.newest_whole(None)
        if step:
            self.damaged_s = now
            self.checkpoints[step] = (self.checkpoints[step][0], False)
        return step > 0

    def write(self, generation: int, state: dict[str, Any]) -> None:
        """A driver writes what the next must know."""
        self.left[generation] = json.dumps(state)

    def read(self) -> dict[str, Any] | None:
        """What the newest driver that has left anything has left."""
        if not self.left:
            return None
        state: dict[str, Any] = json.loads(self.left[max(self.left)])
        return state
