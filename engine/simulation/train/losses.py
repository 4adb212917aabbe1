"""What each kind of failure has cost: the time until the job was where it had been."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Loss:
    """Of one component: failures, and seconds until training had caught up."""

    count: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Open:
    component: str
    at_s: float
    step: int
    caught_up_s: float | None = None


@dataclass(slots=True)
class Losses:
    """Of a job. A failure before the one before is caught up counts, and the time is the first's.

    Attributes:
        by_component: in the order of the first failure of each.
    """

    by_component: dict[str, Loss] = field(default_factory=dict)
    _open: _Open | None = None

    def fail(self, component: str, step: int, now: float) -> None:
        """A failure, when ``step`` was the last that was done."""
        self.by_component.setdefault(component, Loss()).count += 1
        if self._open is not None:
            if self._open.caught_up_s is None or self._open.caught_up_s > now:
                return
            self.close(now)
        self._open = _Open(component, now, step)

    @property
    def step(self) -> int:
        """Where the job was when it failed; 0: nothing is to be caught up with."""
        return self._open.step if self._open else 0

    def begin(self, caught_up_s: float) -> None:
        """Training goes on, and is at :attr:`step` by then."""
        if self._open is not None:
            self._open.caught_up_s = caught_up_s

    def close(self, now: float) -> None:
        """No more is to come of what is open."""
        opened, self._open = self._open, None
        if opened is not None:
            until = now if opened.caught_up_s is None else min(now, opened.caught_up_s)
            self.by_component[opened.component].seconds += until - opened.at_s
