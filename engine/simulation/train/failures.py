"""When which component fails on which host: chance that a seed decides, or a fixed rhythm.

The sequence does not depend on what failures cost: practices and what-ifs meet the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.simulation.timeline import stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.simulation.interruptions import Component, Interruptions

Rhythm = Literal["exponential", "fixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One of them.

    Attributes:
        at_s: since the beginning of the job.
        where: the host, as a share of all.
    """

    at_s: float
    component: Component
    where: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a job has to bear.

    Attributes:
        every_s: between failures, on average.
    """

    interruptions: Interruptions
    every_s: float
    rhythm: Rhythm = "exponential"

    def failures(self, seed: int, until_s: float) -> Iterator[Failure]:
        """In order."""
        times, kinds = stream(seed, "times"), stream(seed, "kinds")
        components = self.interruptions.components
        weights = [each.per_gpu_s for each in components]
        now = 0.0
        while True:
            now += self.every_s * (times.expovariate(1.0) if self.rhythm == "exponential" else 1.0)
            if now >= until_s:
                return
            component = kinds.choices(components, weights)[0]
            yield Failure(at_s=now, component=component, where=kinds.random())
