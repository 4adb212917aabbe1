"""Faults that a rank does to itself, and when in its steps it does."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from engine.faults.grammar import Fault
from engine.faults.keys import Steps, key, one_step, step_range, whole_number
from engine.faults.marker import Marker

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.faults.place import Place
    from engine.step_hook import StepHook


@dataclass(frozen=True, kw_only=True)
class RankFault(Fault, ABC):
    """Struck from within: a hook around the steps of the ranks concerned."""

    struck: ClassVar[Literal["rank", "outside"]] = "rank"

    def unavailable(self, *, unpinned: str) -> str:
        """Why this machine cannot inject it, or ""; ``unpinned``: why ranks are not pinned."""
        return ""

    def out_of_place(self, place: Place) -> str:
        """Why it cannot strike this rank, or ""."""
        return ""

    @abstractmethod
    def concerns(self, place: Place) -> bool:
        """Whether the rank there has a part in the fault."""

    @abstractmethod
    def hook(self, place: Place) -> StepHook:
        """What does it."""

    def marker(self, place: Place) -> Marker:
        """Left by whoever strikes."""
        return Marker(place.markers, str(place.index))

    def inject(self, place: Place) -> StepHook | None:
        """The part of the fault in this rank; None if it has none, or none can be."""
        if not self.concerns(place):
            return None
        if reason := self.unavailable(unpinned=place.unpinned) or self.out_of_place(place):
            self.record(place, "fault.skipped", reason=reason)
            return None
        return self.hook(place)

    def record(self, place: Place, name: str, step: int | None = None, **more: Any) -> None:  # noqa: ANN401
        """Have the truth on record."""
        attributes = {**self.attributes, **more}
        value = float("nan") if step is None else step
        place.recorder.event(name, subject=place.rank, value=value, attributes=attributes)


@dataclass(frozen=True, kw_only=True)
class StepFault(RankFault):
    """In one step of one rank."""

    rank: int = key("the global rank that it strikes", whole_number)
    step: int = key("the step in which it strikes", one_step)

    def concerns(self, place: Place) -> bool:
        return place.rank == self.rank

    def misfit(self, *, world_size: int, steps: int) -> str:
        return misfit_of_rank(self.rank, world_size) or misfit_of_step(self.step, steps)


@dataclass(frozen=True, kw_only=True)
class LastingFault(RankFault):
    """Through several steps of one rank."""

    rank: int = key("the global rank that it strikes", whole_number)
    steps: Steps = key("the first and last step of it, such as 60-110", step_range)  # noqa: RUF009 - a field

    def concerns(self, place: Place) -> bool:
        return place.rank == self.rank

    def misfit(self, *, world_size: int, steps: int) -> str:
        return misfit_of_rank(self.rank, world_size) or misfit_of_step(self.steps.first, steps)


def misfit_of_rank(rank: int, world_size: int) -> str:
    """Why there is no such rank, or ""."""
    if rank >= world_size:
        return f"rank {rank} does not exist: the run has ranks 0 to {world_size - 1}"
    return ""


def misfit_of_step(step: int, steps: int) -> str:
    """Why that step never comes, or ""."""
    return f"step {step} never comes: the run has {steps} steps" if step > steps else ""


class StrikeAtStep:
    """Strikes when a step begins, or by a thread some time later.

    Args:
        strike: does the fault; where it comes back, the fault is over.
    """

    def __init__(
        self,
        fault: StepFault,
        place: Place,
        strike: Callable[[], None],
        *,
        delay_s: float = 0.0,
    ) -> None:
        self._fault = fault
        self._place = place
        self._strike = strike
        self._delay_s = delay_s
        self._timer: threading.Timer | None = None

    def on_step_begin(self, step: int) -> None:
        if step != self._fault.step:
            return
        if not self._delay_s:
            self._strike_once()
            return
        self.close()
        self._timer = threading.Timer(self._delay_s, self._strike_once)
        self._timer.daemon = True
        self._timer.start()

    def on_step_end(self, step: int) -> None:
        """Nothing: a moment that was asked for may lie behind the step."""

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _strike_once(self) -> None:
        if self._fault.marker(self._place).claim():
            self._fault.record(self._place, "fault.begin", self._fault.step)
            self._strike()
            self._fault.record(self._place, "fault.end", self._fault.step)


class Condition(ABC):
    """:class:`~engine.step_hook.StepHook` of a fault that lasts: begun, and undone.

    A rank that comes back within its steps has it again, unless it had lasted to its end.
    """

    def __init__(self, fault: LastingFault, place: Place) -> None:
        self._fault = fault
        self._place = place
        self._marker = fault.marker(place)
        self._on = False

    @abstractmethod
    def begin(self) -> None:
        """Bring it about."""

    @abstractmethod
    def undo(self) -> None:
        """Leave nothing of it."""

    def truth(self) -> dict[str, Any]:
        """What is recorded beside the fault's keys."""
        return {}

    def on_step_begin(self, step: int) -> None:
        within = self._fault.steps.has(step)
        if self._on and not within:  # the run has gone back to before it
            self.close()
        if within and not self._on and not self._marker.has_ended:
            self._marker.claim()
            self.begin()
            self._on = True
            self._fault.record(self._place, "fault.begin", step, **self.truth())

    def on_step_end(self, step: int) -> None:
        if self._on and step >= self._fault.steps.last:
            self.close()
            self._marker.end()
            self._fault.record(self._place, "fault.end", step, **self.truth())

    def close(self) -> None:
        if self._on:
            self._on = False
            self.undo()
