"""What an engine is told before each decision: all that it cannot know by itself.

Every rank of a group is told the same, decides the same, and computes its part.
"""

from __future__ import annotations

import msgspec

from engine.serving.request import GenerationRequest
from engine.serving.sampling.sampler import Chosen


class Outcome(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Of an iteration that is over: the one that was decided first of those in flight.

    Attributes:
        seconds: that it took.
        chosen: for each work that gave a token, in its order.
        failed: numbers of requests whose work could not be done.
    """

    seconds: float
    chosen: tuple[Chosen, ...] = ()
    failed: frozenset[int] = frozenset()


class Tick(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """In the order in which it counts.

    Attributes:
        now: seconds of the first rank's clock.
        outcomes: of iterations that have ended, in the order in which they were decided.
        moved: numbers of requests whose keys and values have arrived on the other side.
        joined: new requests.
        withdrawn: requests that are no longer wanted; some may have come just now.
    """

    now: float
    outcomes: tuple[Outcome, ...] = ()
    moved: tuple[int, ...] = ()
    joined: tuple[GenerationRequest, ...] = ()
    withdrawn: tuple[int, ...] = ()
