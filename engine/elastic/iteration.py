"""One iteration of a group, as its manager decided it: an assignment with all its work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.elastic.assignment import Share, Transfer
    from engine.scheduling.iteration import Work
    from engine.scheduling.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupIteration:
    """Attributes:
    number: grows with every decision: an instance computes its iterations in this order.
    instances: ascending.
    work: prefills first, then decodes.
    keep: of each work, where its new keys and values are kept; of a decode, its master, once.
    transfers: before the work.
    predicted_s: how long it takes, by the scaling information base.
    """

    number: int
    instances: tuple[int, ...]
    work: tuple[Work, ...]
    keep: tuple[tuple[Share, ...], ...]
    transfers: tuple[Transfer, ...] = ()
    predicted_s: float = 0.0

    @property
    def dop(self) -> int:
        """Degree of parallelism."""
        return len(self.instances)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What begins now.

    Attributes:
        drop: jobs whose keys and values were given up, wherever they were, before all else; some
            may begin anew at once.
    """

    drop: tuple[Job, ...] = ()
    iterations: tuple[GroupIteration, ...] = ()
