"""Why a rank lags: in which phases its time rose, and what it did or waited for meanwhile.

A core that is slow, or shared with a neighbour, slows all that is computed on it by about the same
ratio. Work or waiting of the rank's own makes one phase longer and leaves the others as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from playbooks.segments import outside
from playbooks.step_times import median

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from playbooks.segments import Segment
    from playbooks.step_times import StepTimes

_EXPLAINED = 0.5  # of the time lost
_NOT_MEANT = 0.3  # of the time lost: less does not count as an explanation, not even of a part
_COMPUTED = frozenset({"forward", "backward", "optimizer"})  # a slow core slows all of them
_SUBSTANTIAL = 0.02  # of the usual step: shorter phases are all noise
_ALIKE = 1 / 3  # of the step's rise: what waits for memory is slowed less than what computes


class Cause(StrEnum):
    """What explains the time a straggler loses."""

    CPU_THROTTLING = "cpu_throttling"
    GARBAGE_COLLECTION = "garbage_collection"
    CPU_CONTENTION = "cpu_contention"
    SLOW_CORE = "slow_core"
    EXTRA_WORK = "extra_work_of_its_own"
    OFF_PROCESSOR = "waits_off_the_processor"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class _Phase:
    """Median seconds of a phase: ``usual`` and in the suspect steps."""

    usual: float
    now: float

    @property
    def more(self) -> float:
        return self.now / self.usual - 1


def costliest_phase(times: StepTimes, rank: int, segment: Segment) -> str:
    """The phase whose own time rose most."""
    phases = _phases(times, rank, segment)
    return max(phases, key=lambda name: phases[name].now - phases[name].usual)


def find_cause(times: StepTimes, rank: int, segment: Segment, lost: float) -> Cause:
    """What explains the ``lost`` seconds of a rank in these steps. Pure."""
    for spent, cause in (
        # Whom the kernel stops waits for its core as well, and who collects garbage computes.
        (times.throttled, Cause.CPU_THROTTLING),
        (times.garbage, Cause.GARBAGE_COLLECTION),
    ):
        if _explained(spent, rank, segment, lost) >= _EXPLAINED:
            return cause
    return _cause_on_core(times, rank, segment, lost)


def _cause_on_core(times: StepTimes, rank: int, segment: Segment, lost: float) -> Cause:
    """By whether it was on its core, waited for it, or did neither."""
    on_core = _explained(times.cpu_time, rank, segment, lost)
    waited = _explained(times.run_queue_wait, rank, segment, lost)
    spread = _spread(_phases(times, rank, segment))
    if spread is False and on_core >= _EXPLAINED:  # who computes more waits for its core more
        return Cause.EXTRA_WORK
    if waited >= _EXPLAINED:
        return Cause.CPU_CONTENTION
    if spread is True and on_core >= _EXPLAINED:
        return Cause.SLOW_CORE
    if spread is False and on_core < _NOT_MEANT and not waited >= _NOT_MEANT:
        return Cause.OFF_PROCESSOR
    return Cause.UNKNOWN


def _spread(phases: Mapping[str, _Phase]) -> bool | None:
    """Whether all that is computed takes longer; None where only one phase is there to look at."""
    usual = sum(phase.usual for phase in phases.values())
    now = sum(phase.now for phase in phases.values())
    longest = max(phases, key=lambda name: phases[name].now - phases[name].usual)
    others = {
        name: phase
        for name, phase in phases.items()
        if name != longest and phase.usual >= _SUBSTANTIAL * usual > 0
    }
    computed = [phase for name, phase in others.items() if name in _COMPUTED]
    compared = computed or list(others.values())
    if not compared:
        return None
    return min(phase.more for phase in compared) >= _ALIKE * (now / usual - 1)


def _phases(times: StepTimes, rank: int, segment: Segment) -> dict[str, _Phase]:
    """A step without the phase spent nothing in it."""
    measured = ((name, np.nan_to_num(own)) for name, own in times.own.items())
    return {
        name: _Phase(_usual(own, rank, segment), float(median(own[segment.slice, rank])))
        for name, own in measured
    }


def _explained(spent: NDArray[np.float64], rank: int, segment: Segment, lost: float) -> float:
    """The rise of what the rank ``spent``, as a share of what it lost; NaN if not measured."""
    excess = spent[segment.slice, rank] - _usual(spent, rank, segment)
    if lost <= 0 or not np.isfinite(excess).any():
        return float("nan")
    return float(np.nansum(excess)) / lost


def _usual(values: NDArray[np.float64], rank: int, segment: Segment) -> float:
    """The rank's median outside of these steps; its peers' where there is no outside."""
    past = outside(values.shape[0], [segment])
    return float(median(values[past, rank] if past.any() else np.delete(values, rank, axis=1)))
