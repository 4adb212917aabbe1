"""What a fleet's engine is told before each decision: all that it cannot know by itself."""

from __future__ import annotations

import msgspec

from engine.serving.instances.step import Done
from engine.serving.request import GenerationRequest


class Tick(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """In the order in which it counts.

    Attributes:
        now: seconds of the manager's clock.
        lost: instances that are gone.
        gained: instances that are there, with empty pools: (instance, slots).
        done: accounts of steps, by instances that live.
        joined: new requests.
        withdrawn: requests that are no longer wanted; some may have come just now.
    """

    now: float
    lost: tuple[int, ...] = ()
    gained: tuple[tuple[int, int], ...] = ()
    done: tuple[Done, ...] = ()
    joined: tuple[GenerationRequest, ...] = ()
    withdrawn: tuple[int, ...] = ()
