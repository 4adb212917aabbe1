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
from playbooks.straggler_cause import Cause, costliest_phase, find_cause

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from playbooks.step_times import StepTimes

_WARM_UP_STEPS = 2  # allocations, lazy imports
_SIGMAS_CERTAIN = 8.0
_WAITS = 0.5  # of its rise, for a core: then it matters whether its neighbours wait as well
# Of the run, or this long: a stretch that cost less is not told. Cores of shared machines slow down
# by a third for seconds at a time when a neighbour uses their other half; nobody here can help it.
_MIN_SHARE_LOST = 0.03
_ALWAYS_WORTH_S = 60.0
_MIN_SHARE_LOST_ON_CORE = 0.06  # more time on the core is what that weather looks like
_WEATHER_SLOWDOWN = 1.45
_WEATHER_S = 10.0
_NEGLIGIBLE = 0.01  # of the rank's own time: a phase that says nothing
_SHARED_CONTENTION = 0.5  # the peers wait for their cores at least this much as well


def find_stragglers(times: StepTimes) -> list[Finding]:
    """Name the ranks that hold their peers up; costliest first. Pure."""
    times = times.without_first(_WARM_UP_STEPS)
    if times.ranks.size < 2 or times.steps.size < MIN_STEPS:
        return []
    findings = [
        _describe(times, rank, lag, cause)
        for rank in range(times.ranks.size)
        for lag in find_lags(times.work, rank)
        for cause in [find_cause(times, rank, lag.segment, _lost(times, rank, lag))]
        if _worth_telling(times, rank, lag, cause)
    ]
    return sorted(findings, key=lambda finding: -finding.share_lost)


def _worth_telling(times: StepTimes, rank: int, lag: Lag, cause: Cause) -> bool:
    if cause is not Cause.EXTRA_WORK and _shared(times, rank, lag.segment):
        return False
    lost = _lost(times, rank, lag)
    if lost >= _ALWAYS_WORTH_S:
        return True
    if cause is Cause.SLOW_CORE and _like_weather(times, lag):
        return False
    on_core = cause in (Cause.SLOW_CORE, Cause.EXTRA_WORK)
    return lost >= (_MIN_SHARE_LOST_ON_CORE if on_core else _MIN_SHARE_LOST) * times.wall


def _like_weather(times: StepTimes, lag: Lag) -> bool:
    lasted = float(np.sum(_wall(times, lag.segment)))
    return lasted < _WEATHER_S and lag.excess < np.log(_WEATHER_SLOWDOWN)


def _lost(times: StepTimes, rank: int, lag: Lag) -> float:
    """Seconds of the run that the rank cost in these steps: of each step at most all of it."""
    work = np.minimum(times.work[lag.segment.slice, rank], _wall(times, lag.segment))
    return float(np.sum(work) * -np.expm1(-lag.excess))


def _wall(times: StepTimes, segment: Segment) -> NDArray[np.float64]:
    return np.asarray(np.nanmax(times.duration[segment.slice], axis=1))


def _shared(times: StepTimes, rank: int, segment: Segment) -> bool:
    """Whether the peers had to wait for their cores too: the host is crowded, not the rank slow."""
    waited = _rise(times.run_queue_wait, segment)
    if not waited[rank] >= _WAITS * _rise(times.work, segment)[rank]:
        return False
    neighbours = [i for i, h in enumerate(times.hosts) if h == times.hosts[rank] and i != rank]
    return bool(neighbours) and bool(
        median(waited[neighbours]) >= _SHARED_CONTENTION * waited[rank]
    )


def _describe(times: StepTimes, rank: int, lag: Lag, cause: Cause) -> Finding:
    segment = lag.segment
    steps = times.steps[segment.slice]
    phase = costliest_phase(times, rank, segment)
    number = int(times.ranks[rank])
    return Finding(
        kind="straggler",
        ranks=(number,),
        hosts=(times.hosts[rank],),
        phase=phase,
        cause=str(cause),
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        slowdown=float(np.exp(lag.excess)),
        share_lost=_lost(times, rank, lag) / times.wall if times.wall else 0.0,
        confidence=_confidence(lag),
        evidence=tuple(_evidence(times, rank, segment)),
        sql=_sql(times.run_id, number, int(steps[0]), int(steps[-1])),
        action=_ACTIONS[cause].format(phase=phase),
    )


_ACTIONS = {
    Cause.CPU_THROTTLING: "its control group may use fewer cores than it wants, and the kernel"
    " stops it for the rest of each period: raise the quota (cpu.max; of a pod: its CPU limit)",
    Cause.GARBAGE_COLLECTION: "Python collects garbage on it during steps: have all ranks collect"
    " between steps (train.own_gc; gc.disable and gc.collect), and freeze what lives long"
    " (gc.freeze)",
    Cause.CPU_CONTENTION: "find the other process on the rank's core (top, sorted by CPU; column P"
    " is the core) and move or end it",
    Cause.SLOW_CORE: "its core does the same work more slowly: check its clock and temperature; on"
    " a virtual machine ask for another host",
    Cause.EXTRA_WORK: "in {phase} it computes what its peers do not, its core is not slow: look for"
    " code that runs on this rank alone, or for more data than its peers have",
    Cause.OFF_PROCESSOR: "in {phase} it waits for something that is no core: look for a sleep, a"
    " lock, a slow disk or network, or its device",
    Cause.UNKNOWN: "compare the rank's device and host with a healthy one (clocks, temperature,"
    " neighbours), or move the rank to another host",
}


def _confidence(lag: Lag) -> Confidence:
    strong = lag.sigmas >= _SIGMAS_CERTAIN and lag.excess >= np.log(2 * MIN_SLOWDOWN - 1)
    return Confidence.CERTAIN if strong else Confidence.LIKELY


def _evidence(times: StepTimes, rank: int, segment: Segment) -> list[Evidence]:
    """What sets the rank apart in these steps; what was not measured is left out."""
    facts = [
        _against_peers("own time a step", times.work, rank, segment),
        *_against_past(times, rank, segment),
        *_by_phase(times, rank, segment),
    ]
    return [f for f in facts if not np.isnan([f.value or 0.0, f.baseline or 0.0]).any()]


def _against_past(times: StepTimes, rank: int, segment: Segment) -> list[Evidence]:
    inside, past = segment.slice, outside(times.steps.size, [segment])
    work, blocked = times.work[:, rank], peer_median(times.blocked, rank)
    spent = (
        ("waiting for a core a step, all threads", times.run_queue_wait),
        ("on a core a step, all threads", times.cpu_time),
        ("stopped by its quota of cores a step", times.throttled),
        ("collecting garbage a step", times.garbage),
    )
    told = [(what, values) for what, values in spent if values[inside, rank].any()]
    if not past.any():  # slow from end to end: only its peers show what is usual
        own = times.blocked[inside, rank]
        return [
            _fact("its peers blocked a step", blocked[inside], "itself", own),
            *(_against_peers(what, values, rank, segment) for what, values in told),
        ]
    return [
        _fact("own time a step", work[inside], "itself otherwise", work[past]),
        _fact("its peers blocked a step", blocked[inside], "otherwise", blocked[past]),
        *(
            _fact(what, values[inside, rank], "otherwise", values[past, rank])
            for what, values in told
        ),
    ]


def _by_phase(times: StepTimes, rank: int, segment: Segment) -> list[Evidence]:
    least = _NEGLIGIBLE * float(median(times.work[segment.slice, rank]))
    facts = [
        _against_peers(f"own time in {name}", own, rank, segment) for name, own in times.own.items()
    ]
    return [fact for fact in facts if max(fact.value or 0.0, fact.baseline or 0.0) >= least]


def _against_peers(what: str, values: NDArray[np.float64], rank: int, segment: Segment) -> Evidence:
    peers = peer_median(values, rank)[segment.slice]
    return _fact(what, values[segment.slice, rank], "its peers", peers)


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
