"""Where every rank's time went, step by step: the arrays that playbooks compare."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_RANKS = "SELECT rank, host FROM ranks WHERE run_id = ? ORDER BY rank"
# In the order of time: of a step that a resumed run did twice, the last time counts.
_STEPS = (
    "SELECT step, rank, duration_s, blocked_s, run_queue_wait_s, cpu_time_s,"
    " coalesce(throttled_s, 0.0) AS throttled_s, coalesce(gc_s, 0.0) AS gc_s FROM steps"
    " WHERE run_id = ? AND start_ns >= ? ORDER BY start_ns"
)
# Rank 0 alone writes checkpoints: comparing ranks there would blame it for its duty.
_PHASES = (
    "SELECT step, rank, phase, own_s FROM phases WHERE run_id = ? AND start_ns >= ?"
    " AND phase <> 'checkpoint' ORDER BY start_ns"
)


class Source(Protocol):
    """What playbooks need of the store."""

    def arrays(self, sql: str, parameters: Sequence[object] = ()) -> dict[str, NDArray[np.generic]]:
        """The columns of a query's result."""
        ...


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Per-step, per-rank times in seconds; S steps by R ranks, NaN where unmeasured.

    Attributes:
        run_id: the run.
        steps: step numbers [S], ascending; only steps that every rank completed.
        ranks: global ranks [R], ascending.
        hosts: host of every rank [R].
        duration: wall time of the step [S, R].
        own: per phase (checkpoints apart), time outside collectives [S, R].
        blocked: time spent waiting for later arrivals in collectives [S, R].
        run_queue_wait: time that runnable threads waited for a core [S, R].
        cpu_time: time that the process's threads spent on cores [S, R].
        throttled: time that the process was stopped for having used up its quota of cores [S, R].
        garbage: time that Python collected garbage [S, R].
    """

    run_id: str
    steps: NDArray[np.int64]
    ranks: NDArray[np.int64]
    hosts: tuple[str, ...]
    duration: NDArray[np.float64]
    own: Mapping[str, NDArray[np.float64]]
    blocked: NDArray[np.float64]
    run_queue_wait: NDArray[np.float64]
    cpu_time: NDArray[np.float64]
    throttled: NDArray[np.float64]
    garbage: NDArray[np.float64]

    def without_first(self, steps: int) -> StepTimes:
        """The same without the first steps."""
        keep = slice(steps, None)
        return replace(
            self,
            steps=self.steps[keep],
            duration=self.duration[keep],
            own={name: own[keep] for name, own in self.own.items()},
            blocked=self.blocked[keep],
            run_queue_wait=self.run_queue_wait[keep],
            cpu_time=self.cpu_time[keep],
            throttled=self.throttled[keep],
            garbage=self.garbage[keep],
        )

    @cached_property
    def work(self) -> NDArray[np.float64]:
        """Own time over all phases [S, R]."""
        phases = list(self.own.values())
        return np.nansum(phases, axis=0) if phases else np.zeros_like(self.duration)

    @cached_property
    def wall(self) -> float:
        """Wall time of all steps together, by the slowest rank of each."""
        return float(np.nansum(np.nanmax(self.duration, axis=1))) if self.steps.size else 0.0


def load_step_times(source: Source, run_id: str, *, since_ns: int = 0) -> StepTimes:
    """Read one run's times, from some moment on; without recorded steps, arrays are empty."""
    ranks = source.arrays(_RANKS, [run_id])
    steps, phases = (source.arrays(sql, [run_id, since_ns]) for sql in (_STEPS, _PHASES))
    grid = _Grid(steps["step"], steps["rank"])
    hosts = dict(zip(ranks["rank"].tolist(), ranks["host"].tolist(), strict=True))
    return StepTimes(
        run_id=run_id,
        steps=grid.steps,
        ranks=grid.ranks,
        hosts=tuple(str(hosts.get(int(rank), "?")) for rank in grid.ranks),
        duration=grid.spread(steps["step"], steps["rank"], steps["duration_s"]),
        blocked=grid.spread(steps["step"], steps["rank"], steps["blocked_s"]),
        own={
            str(name): grid.spread(*(phases[c][phases["phase"] == name] for c in _OWN_COLUMNS))
            for name in dict.fromkeys(phases["phase"].tolist())
        },
        run_queue_wait=grid.spread(steps["step"], steps["rank"], steps["run_queue_wait_s"]),
        cpu_time=grid.spread(steps["step"], steps["rank"], steps["cpu_time_s"]),
        throttled=grid.spread(steps["step"], steps["rank"], steps["throttled_s"]),
        garbage=grid.spread(steps["step"], steps["rank"], steps["gc_s"]),
    )


_OWN_COLUMNS = ("step", "rank", "own_s")


def median(values: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """Median of what was measured; NaN, without a warning, where nothing was."""
    if not values.size:
        return np.asarray(np.nan)
    measured = np.ma.median(  # type: ignore[no-untyped-call]
        np.ma.masked_invalid(values), axis=axis
    )
    return np.asarray(np.ma.filled(measured, np.nan), dtype=np.float64)


def peer_median(values: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """Median over all other ranks, [S]."""
    return median(np.delete(values, rank, axis=1), axis=1)


class _Grid:
    """The steps that all ranks completed, by the ranks that recorded any."""

    def __init__(self, step: NDArray[np.generic], rank: NDArray[np.generic]) -> None:
        self.ranks: NDArray[np.int64] = np.unique(rank).astype(np.int64)
        # A resumed run did some steps twice: what counts is which ranks did them at all.
        pairs = np.unique(np.stack([step.astype(np.int64), rank.astype(np.int64)]), axis=1)
        steps, counts = np.unique(pairs[0], return_counts=True)
        self.steps: NDArray[np.int64] = steps[counts == self.ranks.size].astype(np.int64)

    def spread(
        self,
        step: NDArray[np.generic],
        rank: NDArray[np.generic],
        value: NDArray[np.generic],
    ) -> NDArray[np.float64]:
        """Values of (step, rank) rows as an array [S, R]."""
        out = np.full((self.steps.size, self.ranks.size), np.nan)
        if self.steps.size and step.size:
            known = np.isin(step, self.steps) & np.isin(rank, self.ranks)
            row = np.searchsorted(self.steps, step[known])
            column = np.searchsorted(self.ranks, rank[known])
            out[row, column] = np.ma.filled(value[known].astype(np.float64), np.nan)
        return out
