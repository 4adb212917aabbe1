"""Which rank does the same work more slowly than its peers, and than itself before.

A rank that waits in a collective looks slow to a timer, so only *own* time counts: the phases of
a step without the collectives inside them. A rank is named when its own time rises above its
peers' *and* above its own past for a stretch of steps, by more than the run's noise allows; or
when it lay above its peers all along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from playbooks.finding import Confidence, Evidence, Finding
from playbooks.lag import MIN_SLOWDOWN, MIN_STEPS, Lag, find_lags
from playbooks.segments import Segment, outside
from playbooks.step_times import median, peer_median

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from playbooks.step_times import StepTimes

_WARM_UP_STEPS = 2  # allocations, lazy imports
_SIGMAS_CERTAIN = 8.0
_EXPLAINED = 0.5  # of the excess, by waiting for a core or by more time on it
# Of the run, or this long: a stretch that cost less is not told. Cores of shared machines slow down
# by a third for seconds at a time when a neighbour uses their other half; nobody here can help it.
_MIN_SHARE_LOST = {"cpu_contention": 0.03, "slow_core": 0.06, "unknown": 0.03}
_ALWAYS_WORTH_S = 60.0
_SHARED_CONTENTION = 0.5  # the peers wait for their cores at least this much as well


def find_stragglers(times: StepTimes) -> list[Finding]:
    """Name the ranks that hold their peers up; costliest first. Pure."""
    times = times.without_first(_WARM_UP_STEPS)
    if times.ranks.size < 2 or times.steps.size < MIN_STEPS:
        return []
    findings = [
        _describe(times, rank, lag)
        for rank in range(times.ranks.size)
        for lag in find_lags(times.work, rank)
        if not _shared(times, rank, lag.segment)
    ]
    worth_telling = [f for f in findings if _costs_enough(f, times.wall)]
    return sorted(worth_telling, key=lambda finding: -finding.share_lost)


def _shared(times: StepTimes, rank: int, segment: Segment) -> bool:
    """Whether the peers had to wait for their cores too: the host is crowded, not the rank slow."""
    waited = _rise(times.run_queue_wait, segment)
    if not waited[rank] >= _EXPLAINED * _rise(times.work, segment)[rank]:
        return False
    neighbours = [i for i, h in enumerate(times.hosts) if h == times.hosts[rank] and i != rank]
    return bool(neighbours) and bool(
        median(waited[neighbours]) >= _SHARED_CONTENTION * waited[rank]
    )


def _describe(times: StepTimes, rank: int, lag: Lag) -> Finding:
    segment, slowdown = lag.segment, float(np.exp(lag.excess))
    steps = times.steps[segment.slice]
    lost = float(np.sum(times.work[segment.slice, rank])) * (1 - 1 / slowdown)
    phase = _costliest_phase(times, rank, segment)
    cause = _cause(times, rank, segment, lost)
    number = int(times.ranks[rank])
    return Finding(
        kind="straggler",
        ranks=(number,),
        hosts=(times.hosts[rank],),
        phase=phase,
        cause=cause,
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        slowdown=slowdown,
        share_lost=lost / times.wall if times.wall else 0.0,
        confidence=_confidence(lag),
        evidence=tuple(_evidence(times, rank, segment)),
        sql=_sql(times.run_id, number, int(steps[0]), int(steps[-1])),
        action=_ACTIONS[cause],
    )


def _costs_enough(finding: Finding, wall: float) -> bool:
    lost = finding.share_lost
    return lost >= _MIN_SHARE_LOST[finding.cause] or lost * wall >= _ALWAYS_WORTH_S


_ACTIONS = {
    "cpu_contention": "find the other process on the rank's core (top, sorted by CPU; column P is"
    " the core) and move or end it",
    "slow_core": "its core does the same work more slowly: check its clock and temperature; on a"
    " virtual machine ask for another host",
    "unknown": "compare the rank's device and host with a healthy one (clocks, temperature,"
    " neighbours), or move the rank to another host",
}


def _confidence(lag: Lag) -> Confidence:
    strong = lag.sigmas >= _SIGMAS_CERTAIN and lag.excess >= np.log(2 * MIN_SLOWDOWN - 1)
    return Confidence.CERTAIN if strong else Confidence.LIKELY


def _costliest_phase(times: StepTimes, rank: int, segment: Segment) -> str:
    rises = {name: float(_rise(own, segment)[rank]) for name, own in times.own.items()}
    if len(segment) == times.steps.size:
        rises = {
            name: float(median(own[:, rank]) - median(peer_median(own, rank)))
            for name, own in times.own.items()
        }
    return max(rises, key=lambda name: np.nan_to_num(rises[name], nan=-np.inf))


def _cause(times: StepTimes, rank: int, segment: Segment, lost: float) -> str:
    """What explains the time lost: waiting for a core, or more time on it for the same work."""
    for cause, spent in (
        ("cpu_contention", times.run_queue_wait),
        ("slow_core", times.cpu_time),
    ):
        past = outside(times.steps.size, [segment])
        usual = median(spent[past, rank] if past.any() else np.delete(spent, rank, axis=1))
        excess = float(np.nansum(spent[segment.slice, rank] - usual))
        if excess >= _EXPLAINED * lost > 0:
            return cause
    return "unknown"


def _evidence(times: StepTimes, rank: int, segment: Segment) -> list[Evidence]:
    """What sets the rank apart in these steps; what was not measured is left out."""
    inside, past = segment.slice, outside(times.steps.size, [segment])
    work, waits = times.work[:, rank], times.run_queue_wait[:, rank]
    busy = times.cpu_time[:, rank]
    peers, blocked = peer_median(times.work, rank), peer_median(times.blocked, rank)
    facts = [
        _fact("own time a step", work[inside], "its peers", peers[inside]),
        _fact("own time a step", work[inside], "itself otherwise", work[past]),
        _fact("its peers blocked a step", blocked[inside], "otherwise", blocked[past]),
        _fact("waiting for its core a step", waits[inside], "otherwise", waits[past]),
        _fact("on its core a step", busy[inside], "otherwise", busy[past]),
    ]
    facts += [
        _fact(f"own time in {name}", own[inside, rank], "its peers", peer_median(own, rank)[inside])
        for name, own in times.own.items()
    ]
    return [f for f in facts if not np.isnan([f.value, f.baseline or 0.0]).any()]


def _fact(
    what: str, value: NDArray[np.float64], against: str, baseline: NDArray[np.float64]
) -> Evidence:
    return Evidence(
        what=what,
        value=float(median(value)),
        against=against,
        baseline=float(median(baseline)),
        unit="s",
    )


def _sql(run_id: str, rank: int, first: int, last: int) -> str:
    run = run_id.replace("'", "''")
    return (  # shown to people; opsuite itself never executes it
        f"SELECT step, round(max(own_s) FILTER (rank = {rank}), 4) AS rank_{rank}_own_s,"  # noqa: S608
        f" round(median(own_s) FILTER (rank <> {rank}), 4) AS others_own_s,"
        f" round(median(blocked_s) FILTER (rank <> {rank}), 4) AS others_blocked_s"
        f" FROM steps WHERE run_id = '{run}' AND step BETWEEN {max(first - 5, 1)} AND {last + 5}"
        " GROUP BY step ORDER BY step"
    )


def _rise(values: NDArray[np.float64], segment: Segment) -> NDArray[np.float64]:
    """Per rank, how much the median inside the segment lies above the one outside, [R]."""
    apart = outside(values.shape[0], [segment])
    inside = values[segment.slice]
    if not apart.any() or not np.isfinite(inside).any():
        return median(inside, axis=0)
    return median(inside, axis=0) - median(values[apart], axis=0)
