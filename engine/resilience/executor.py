"""The executor of a host: a deterministic state machine, live and simulated alike.

It obeys the newest driver that it has heard of, and none before it: orders carry their driver's
generation. A driver may end and another find it; meanwhile its ranks go on. Ranks without any
driver for ``orphan_s`` are ended: nobody would notice if they failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.resilience.messages import (
    Adopt,
    Began,
    Check,
    Checked,
    Ended,
    Order,
    Release,
    Report,
    Start,
    Stop,
    Stopped,
)

if TYPE_CHECKING:
    from engine.resilience.config import ResilienceConfig

# -- what its host tells it ---


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksBegan:
    """All ranks of the host are where their first step begins."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksEnded:
    """They have ended by themselves; ``how`` is what to report."""

    how: Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksGone:
    """They have ended, as it was wanted."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckEnded:
    """An examination has ended; ``how`` is what to report."""

    how: Checked


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverHeard:
    """The driver's connection is alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """Some time has passed."""


Happening = (
    Start
    | Stop
    | Check
    | Adopt
    | Release
    | RanksBegan
    | RanksEnded
    | RanksGone
    | CheckEnded
    | DriverHeard
    | TimePassed
)

# -- what it wants done ---


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRanks:
    """Start the host's ranks."""

    order: Start


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRanks:
    """End them, now; answer RanksGone."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DropCopies:
    """States after later steps belong to what the job has given up."""

    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Examine:
    """Run the self-checks."""

    order: Check


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Report to the driver."""

    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The job is over, or lost: end."""

    why: str


Action = RunRanks | EndRanks | DropCopies | Examine | Send | Leave


class Executor:
    """Of one host, for one job.

    Attributes:
        generation: of the newest driver that it has heard of.
        attempt: whose ranks are running or being ended; 0: none.
    """

    def __init__(self, host: str, config: ResilienceConfig, *, now: float) -> None:
        self.host = host
        self.generation = 0
        self.attempt = 0
        self._config = config
        self._heard_s = now
        self._last = 0  # the newest attempt that was begun or forbidden here
        self._outcome: Ended | None = None
        self._ending = False
        self._next: Start | None = None
        self._leaving = ""
        self._examining = 0
        self._examining_until_s = 0.0

    def handle(self, happening: Happening, now: float) -> list[Action]:
        """What has happened, and what is to be done."""
        if lapsed := self._orphaned(now):
            return lapsed  # even if a driver is heard now: it has given this host up
        if isinstance(happening, Order):
            if happening.generation < self.generation:
                return []  # of a driver that was replaced
            self.generation = happening.generation
            self._heard_s = now
            return self._obey(happening, now)
        if isinstance(happening, DriverHeard):
            self._heard_s = now
        return self._note(happening, now)

    def _note(self, happening: Happening, now: float) -> list[Action]:
        """What its own host tells it."""
        match happening:
            case RanksBegan() if happening.attempt == self.attempt and not self._ending:
                return [Send(report=Began(host=self.host, attempt=self.attempt))]
            case RanksEnded() if happening.how.attempt == self.attempt:
                return self._ended(happening.how)
            case RanksGone() if happening.attempt == self.attempt:
                return self._gone()
            case CheckEnded():
                if happening.how.number == self._examining:
                    self._examining = 0
                return [Send(report=happening.how), *self._start_next()]
            case TimePassed() if self._examining and now > self._examining_until_s:
                self._examining = 0  # it hangs, and must not keep ranks from starting for ever
                return self._start_next()
        return []

    def _obey(self, order: Order, now: float) -> list[Action]:
        match order:
            case Start():
                return self._start(order)
            case Stop():
                return self._stop(order)
            case Check() if not self.attempt:
                self._examining = order.number
                self._examining_until_s = now + self._config.check_s
                return [Examine(order=order)]
            case Release():
                self._leaving = "the job is over"
                return self._end_ranks() if self.attempt else [Leave(why=self._leaving)]
        return []

    def _start(self, order: Start) -> list[Action]:
        if order.attempt < self._last:
            return []  # it was overtaken
        if order.attempt == self._last:  # given again: its end may not have been heard
            told = self._outcome is not None and self._outcome.attempt == order.attempt
            return [Send(report=self._outcome)] if told and self._outcome else []
        self._last, self._next = order.attempt, order
        if self.attempt:
            return self._end_ranks()
        return self._start_next()

    def _start_next(self) -> list[Action]:
        order = self._next
        if order is None or self.attempt or self._examining:
            return []
        self._next, self._outcome = None, None
        self.attempt = order.attempt
        return [DropCopies(after=order.step), RunRanks(order=order)]

    def _stop(self, order: Stop) -> list[Action]:
        self._last = max(self._last, order.attempt)
        if self._next is not None and self._next.attempt <= order.attempt:
            self._next = None
        if self.attempt and self.attempt <= order.attempt:
            return self._end_ranks()
        return [Send(report=Stopped(host=self.host, attempt=order.attempt))]

    def _end_ranks(self) -> list[Action]:
        if self._ending:
            return []
        self._ending = True
        return [EndRanks(attempt=self.attempt)]

    def _ended(self, how: Ended) -> list[Action]:
        if self._ending:  # by themselves, while they were being ended
            return self._gone()
        self.attempt, self._outcome = 0, how
        return [Send(report=how)]

    def _gone(self) -> list[Action]:
        attempt, self.attempt, self._ending = self.attempt, 0, False
        stopped = Send(report=Stopped(host=self.host, attempt=attempt))
        if self._leaving:
            return [stopped, Leave(why=self._leaving)]
        return [stopped, *self._start_next()]

    def _orphaned(self, now: float) -> list[Action]:
        if self._leaving or now - self._heard_s <= self._config.orphan_s:
            return []
        self._leaving = f"no driver for {self._config.orphan_s:g} s"
        return self._end_ranks() if self.attempt else [Leave(why=self._leaving)]
