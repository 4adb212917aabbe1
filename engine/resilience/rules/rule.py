"""What all rules have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.resilience.cause import Incident
    from engine.resilience.config import ResilienceConfig
    from engine.resilience.messages import Beat, Place, RankState


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What rules know of the attempt that they watch.

    Attributes:
        step: the last that was done before it.
        begun_s: when its first step began.
    """

    places: tuple[Place, ...]
    step: int
    begun_s: float
    config: ResilienceConfig

    @property
    def ranks(self) -> int:
        """In all."""
        return sum(place.count for place in self.places)

    def host_of(self, rank: int) -> str:
        """The host on which a rank runs."""
        return next(place.host for place in self.places if rank in place.ranks)

    def hosts_of(self, ranks: Sequence[int]) -> tuple[str, ...]:
        """The hosts of ranks, each once."""
        return tuple(dict.fromkeys(self.host_of(rank) for rank in ranks))


@dataclass(slots=True)
class Sight:
    """What was last seen of every rank; rules read it, the watch keeps it.

    Attributes:
        beats: when each host's last came.
        ranks: of each rank, as of ``beats``.
        moved_s: when any rank has last ended a step.
        step: the last that any rank has ended.
        usual_s: the usual length of a step, 0.0 before one is known.
        slow_links: hosts whose link is slow now; the rule that finds them says so.
    """

    beats: dict[str, float] = field(default_factory=dict)
    ranks: dict[int, RankState] = field(default_factory=dict)
    moved_s: float = 0.0
    step: int = 0
    usual_s: float = 0.0
    slow_links: set[str] = field(default_factory=set)


class Rule(Protocol):
    """Finds one kind of fault. It is deterministic: what it says follows from what it was told."""

    def beat(self, beat: Beat, sight: Sight, now: float) -> Sequence[Incident]:
        """A heartbeat has come, and ``sight`` contains it."""
        ...

    def look(self, sight: Sight, now: float) -> Sequence[Incident]:
        """Time has passed."""
        ...
