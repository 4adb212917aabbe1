"""What becomes of a request in a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.simulation.serve.request import Request


@dataclass(slots=True, eq=False)
class Life:
    """Times are seconds since the beginning.

    Attributes:
        first_s, last_s: of its first token, and of the last one so far.
        finished: whether that was its last.
        computed: tokens whose keys and values were computed so far, dropped ones too.
        recomputed: tokens that were computed again.
        last_iteration: the number of the latest iteration that it was in; -1: of none.
        preemptions: how often it was left out of an iteration after it had been in one before.
    """

    request: Request
    first_s: float | None = None
    last_s: float | None = None
    finished: bool = False
    computed: int = 0
    recomputed: int = 0
    last_iteration: int = -1
    preemptions: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one policy on one workload.

    Attributes:
        lives: in the order of arrival.
        end_s: when the simulation ended: all were done, or the drain's bound was met.
        iterations: of the engine.
        busy_s: in which it computed.
        waited_s: in which it waited for swapping.
        swapped_bytes: over the link, both ways.
    """

    policy: str
    lives: list[Life]
    end_s: float
    iterations: int
    busy_s: float
    waited_s: float
    swapped_bytes: int

    @property
    def unfinished(self) -> int:
        """Requests that were not done in time."""
        return sum(not life.finished for life in self.lives)
