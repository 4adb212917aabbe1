"""When a whole host is crowded: every rank on it waits for a core. Nobody in particular is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from playbooks.finding import Confidence, Evidence, Finding
from playbooks.segments import Segment, maximal_segments, outside

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from playbooks.step_times import StepTimes

# A rank's own threads (its communication) wait for one another, too: what counts is the rise over
# the run's usual share; and a share that high from end to end that they cannot explain it.
MIN_RISE = 0.15
MIN_PERSISTENT_SHARE = 0.3
MIN_STEPS = 8
MIN_SLOWDOWN = 1.1  # of the steps: waiting that delays nothing is nobody's trouble
_WARM_UP_STEPS = 2  # threads that have just started wait for cores on any host
_MIN_SHARE_LOST = 0.03  # of the run: less is the weather of a shared machine


def find_host_contention(times: StepTimes) -> list[Finding]:
    """Stretches of steps in which every rank of a host waits for a core. Pure."""
    times = times.without_first(_WARM_UP_STEPS)
    if times.steps.size < MIN_STEPS:
        return []
    duration = np.max(times.duration, axis=1)
    findings = [
        _describe(times, host, waits, duration, segment)
        for host in dict.fromkeys(times.hosts)
        for waits in [_least_waits(times, host)]
        for segment in _crowded(waits / np.maximum(duration, 1e-9))
    ]
    return [f for f in findings if _worth_telling(f)]


def _worth_telling(finding: Finding) -> bool:
    delays = finding.slowdown is None or finding.slowdown >= MIN_SLOWDOWN
    return delays and finding.share_lost >= _MIN_SHARE_LOST


def _crowded(share: NDArray[np.float64]) -> list[Segment]:
    usual = float(np.quantile(share, 0.25))
    if usual >= MIN_PERSISTENT_SHARE:
        return [Segment(0, share.size)]
    rise = share - usual
    return [
        segment
        for segment in maximal_segments(rise - MIN_RISE / 2)
        if len(segment) >= MIN_STEPS and float(np.median(rise[segment.slice])) >= MIN_RISE
    ]


def _least_waits(times: StepTimes, host: str) -> NDArray[np.float64]:
    """Seconds of each step that the rank of the host which waited least waited for a core, [S].

    The waits of all threads of a rank add up to more than the step at times: it counts once.
    """
    local = np.array([h == host for h in times.hosts], dtype=np.bool_)
    waits = np.minimum(times.run_queue_wait[:, local], times.duration[:, local])
    return np.asarray(np.nan_to_num(np.min(waits, axis=1), nan=0.0))


def _describe(
    times: StepTimes,
    host: str,
    waits: NDArray[np.float64],
    duration: NDArray[np.float64],
    segment: Segment,
) -> Finding:
    inside, apart = segment.slice, outside(times.steps.size, [segment])
    # Crowded from end to end, the run shows no usual step to compare with.
    usual = float(np.quantile(duration, 0.25)) if apart.any() else None
    steps = times.steps[inside]
    run, first, last = times.run_id.replace("'", "''"), int(steps[0]), int(steps[-1])
    return Finding(
        kind="host_contention",
        ranks=(),
        hosts=(host,),
        phase="step",
        cause="cpu_contention",
        first_step=first,
        last_step=last,
        slowdown=float(np.median(duration[inside])) / usual if usual else None,
        share_lost=_lost(waits, duration, segment) / max(times.wall, 1e-9),
        confidence=Confidence.POSSIBLE,
        evidence=(
            _fact("every rank waited for a core a step, at least", waits, segment),
            _fact("a step", duration, segment),
        ),
        sql=(
            "SELECT step, rank, round(value, 4) AS run_queue_wait_s FROM samples"  # noqa: S608 - shown
            f" WHERE run_id = '{run}' AND name = 'run_queue_wait_s'"
            f" AND step BETWEEN {first} AND {last} ORDER BY step, rank"
        ),
        action="find what else is busy on this host (top), or ask for a quieter one",
    )


def _lost(waits: NDArray[np.float64], duration: NDArray[np.float64], segment: Segment) -> float:
    """Seconds: of each step the waiting beyond the usual, and no more than it took beyond that."""
    apart, inside = outside(waits.size, [segment]), segment.slice
    if not apart.any():
        beyond = waits - MIN_RISE * duration
        return float(np.sum(np.maximum(beyond, 0.0)))
    beyond = np.minimum(waits - np.median(waits[apart]), duration - np.median(duration[apart]))
    return float(np.sum(np.maximum(beyond[inside], 0.0)))


def _fact(what: str, seconds: NDArray[np.float64], segment: Segment) -> Evidence:
    apart = outside(seconds.size, [segment])
    otherwise = float(np.median(seconds[apart])) if apart.any() else None
    return Evidence(
        what=what,
        value=float(np.median(seconds[segment.slice])),
        against="" if otherwise is None else "otherwise",
        baseline=otherwise,
        unit="s",
    )
