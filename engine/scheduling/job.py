"""A request as its scheduler sees it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Place(Enum):
    """Where the keys and values of a job's computed tokens are."""

    NOWHERE = auto()
    """It has none: it has not begun, or they were dropped and are to be computed again."""
    DEVICE = auto()
    HOST = auto()
    OFFLOADING = auto()
    """On their way to the host; the device's blocks are still taken."""
    UPLOADING = auto()
    """On their way back; the device's blocks are taken already."""


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One sequence that is generated.

    What a client said comes first; then what the scheduler keeps of it, which nobody else changes.

    Attributes:
        number: unique.
        arrived_s: by the clock of whoever runs the scheduler.
        max_tokens: it ends after so many at the latest; how many it will be nobody knows.
        urgency: as the client asked; less is sooner.
        generated: tokens that it has given so far.
        cached: tokens, of prompt and output, whose keys and values exist at ``place``.
        shared: tokens at the front that came from the prefix cache without computing; before it
            has begun, as many as that would give now.
        in_flight: whether an iteration that is not over has it; no other may.
    """

    number: int
    arrived_s: float
    prompt_tokens: int
    max_tokens: int
    urgency: int = 0
    generated: int = 0
    cached: int = 0
    shared: int = 0
    place: Place = Place.NOWHERE
    in_flight: bool = False

    @property
    def known(self) -> int:
        """Tokens of prompt and output so far."""
        return self.prompt_tokens + self.generated

    @property
    def due(self) -> int:
        """Tokens to compute before the next one is given: 1 while decoding, else a prefill's."""
        return self.known - self.cached

    @property
    def decodes(self) -> bool:
        """Whether all that is left to compute is its latest token."""
        return self.generated > 0 and self.due == 1
