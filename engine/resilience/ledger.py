"""Where a job's time has gone: every second of its wall clock has one cause.

What the driver does (start, check, stop, wait) it accounts by its own clock. While ranks train, one
of them tells each step's seconds and what of them was data, a checkpoint, or a step that had been
done before; what lies between its last step and the end of the attempt was spent on noticing that
something is wrong. So the causes add up to the wall clock by construction, unless a rank tells of
more time than has passed: that is not counted, and remains as ``excess_s``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.resilience.messages import StepDone

_BUCKET_S = 60.0
_BUCKETS = 60  # an hour


class Spent(StrEnum):
    """What a second was spent on."""

    PRODUCTIVE = "productive"
    START_UP = "start-up"
    DATA = "data"
    CHECKPOINT = "checkpoint"
    DETECTION = "detection"
    SELF_CHECK = "self-check"
    RESTART = "restart"
    RECOMPUTATION = "recomputation"
    IDLE = "idle"


@dataclass(slots=True)
class _Training:
    """An attempt's time between its first step's beginning and its end."""

    since_s: float
    accounted_s: float = 0.0


@dataclass(slots=True)
class Ledger:
    """Accounts one job.

    Attributes:
        begun_s: when the job began.
        now_s: until when it is accounted.
        doing: what the driver does since then; None while ranks train.
        spent_s: by cause.
        best: the last step that was ever done: those up to it are done again.
        excess_s: time told by ranks beyond what has passed; should be next to nothing.
    """

    begun_s: float
    now_s: float = 0.0
    doing: Spent | None = Spent.IDLE
    spent_s: dict[Spent, float] = field(default_factory=lambda: dict.fromkeys(Spent, 0.0))
    best: int = 0
    excess_s: float = 0.0
    _training: _Training | None = None
    _unexplained_s: float = 0.0  # of the last attempt, put down to detection so far
    _hour: deque[tuple[float, dict[Spent, float]]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.now_s = self.now_s or self.begun_s

    def turn(self, doing: Spent, now: float) -> None:
        """The driver does something else from now on; ranks do not train."""
        self.advance(now)
        self._end_training(self.now_s, Spent.DETECTION)
        self.doing = doing

    def train(self, now: float) -> None:
        """The first step of an attempt begins now."""
        self.advance(now)
        self._end_training(self.now_s, Spent.DETECTION)
        self.doing = None
        self._training = _Training(self.now_s)
        self._unexplained_s = 0.0

    def finish(self, now: float) -> None:
        """The job is over; what came after the last step was writing its result."""
        self.advance(now)
        self._end_training(self.now_s, Spent.CHECKPOINT)
        self.doing = Spent.IDLE

    def step(self, done: StepDone) -> None:
        """One rank of the attempt has done a step."""
        training = self._training
        passed = self._unexplained_s
        if training is not None:
            passed = max(0.0, self.now_s - training.since_s - training.accounted_s)
        again = done.step <= self.best
        self.best = max(self.best, done.step)
        seconds = min(done.seconds, passed)  # it may have begun before the driver heard so
        if training is None:  # it was done before the fault, and is told after it
            self._unexplained_s -= seconds
            self._spend(Spent.DETECTION, -seconds)
        else:
            training.accounted_s += seconds
        data_s = min(done.data_s, seconds)
        checkpoint_s = min(done.checkpoint_s, seconds - data_s)
        self._spend(Spent.DATA, data_s)
        self._spend(Spent.CHECKPOINT, checkpoint_s)
        rest = seconds - data_s - checkpoint_s
        self._spend(Spent.RECOMPUTATION if again else Spent.PRODUCTIVE, rest)
        self.excess_s += done.seconds - seconds

    def advance(self, now: float) -> None:
        """Account what the driver does, until now; the next driver's clock may be behind."""
        before, self.now_s = self.now_s, max(now, self.now_s)
        if self.doing is not None:
            self._spend(self.doing, self.now_s - before)

    def _end_training(self, now: float, rest: Spent) -> None:
        training, self._training = self._training, None
        if training is None:
            return
        left = max(0.0, now - training.since_s - training.accounted_s)
        self._spend(rest, left)
        self._unexplained_s = left if rest is Spent.DETECTION else 0.0

    def _spend(self, cause: Spent, seconds: float) -> None:
        self.spent_s[cause] += seconds
        bucket = self.now_s // _BUCKET_S
        if not self._hour or self._hour[-1][0] != bucket:
            self._hour.append((bucket, _nothing()))
        self._hour[-1][1][cause] += seconds
        while self._hour[0][0] <= bucket - _BUCKETS:
            self._hour.popleft()

    @property
    def wall_s(self) -> float:
        """Since the job began."""
        return self.now_s - self.begun_s

    @property
    def gap(self) -> float:
        """By how much of the wall clock the causes miss it; not while ranks train."""
        return abs(sum(self.spent_s.values()) - self.wall_s) / self.wall_s if self.wall_s else 0.0

    @property
    def effective(self) -> float:
        """Share of the wall clock that was productive."""
        return self.spent_s[Spent.PRODUCTIVE] / self.wall_s if self.wall_s else 0.0

    @property
    def effective_lately(self) -> float:
        """The same over the last hour, in whole minutes."""
        total = sum(sum(spent.values()) for _, spent in self._hour)
        productive = sum(spent[Spent.PRODUCTIVE] for _, spent in self._hour)
        return productive / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        """As data: a driver that starts again goes on with it."""
        return {
            "begun_s": self.begun_s,
            "now_s": self.now_s,
            "doing": self.doing,
            "spent_s": {**self.spent_s},
            "best": self.best,
            "excess_s": self.excess_s,
            "unexplained_s": self._unexplained_s,
            "training": [self._training.since_s, self._training.accounted_s]
            if self._training
            else None,
            "hour": [[bucket, {**spent}] for bucket, spent in self._hour],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Back from data."""
        ledger = cls(
            begun_s=data["begun_s"],
            now_s=data["now_s"],
            doing=Spent(data["doing"]) if data["doing"] is not None else None,
            spent_s=_spent(data["spent_s"]),
            best=data["best"],
            excess_s=data["excess_s"],
        )
        ledger._unexplained_s = data["unexplained_s"]
        ledger._training = _Training(*data["training"]) if data["training"] else None
        ledger._hour = deque((bucket, _spent(each)) for bucket, each in data["hour"])
        return ledger


def _nothing() -> dict[Spent, float]:
    return dict.fromkeys(Spent, 0.0)


def _spent(data: Mapping[str, float]) -> dict[Spent, float]:
    return {cause: float(data[cause]) for cause in Spent}
