"""How a source stands, and whether that is news."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from collectors.samplers.sampler import Happening

QUIET_S = 60.0
_MOST_TEXTS = 32


class State(StrEnum):
    """Whether a source can be read."""

    UNKNOWN = "unknown"
    """It was not read yet."""
    PRESENT = "present"
    ABSENT = "absent"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a source stands; ``reason`` says why it is not present."""

    state: State
    reason: str | None = None

    def happening(self, sampler: str, *, part: str | None = None, failures: int = 0) -> Happening:
        """The event that tells it: ``sampler.present``, ``sampler.absent``, ``sampler.failed``."""
        kind = "failed" if self.state is State.FAILING else self.state.value
        told = {"sampler": sampler, "part": part, "reason": self.reason, "failures": failures}
        return Happening(f"sampler.{kind}", {key: value for key, value in told.items() if value})


UNKNOWN = Standing(State.UNKNOWN)
PRESENT = Standing(State.PRESENT)


class News:
    """Which standings of one source are worth an event.

    One that comes and goes is told of once a minute at most, and of one whose reason reads
    differently each time, only the first reasons are.
    """

    def __init__(self) -> None:
        self.last = UNKNOWN
        self._told_s: dict[Standing, float] = {}

    def is_new(self, standing: Standing, now_s: float) -> bool:
        """Whether to tell that it stands so; if yes, it counts as told."""
        if standing == self.last:
            return False
        told_s = self._told_s.get(standing)
        if told_s is None and len(self._told_s) >= _MOST_TEXTS:
            return False
        if told_s is not None and now_s - told_s < QUIET_S:
            return False
        self._told_s[standing] = now_s
        self.last = standing
        return True
