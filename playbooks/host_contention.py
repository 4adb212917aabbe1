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


def find_host_contention(times: StepTimes) -> list[Finding]:
    """Stretches of steps in which every rank of a host waits for a core. Pure."""
    findings = [
        _describe(times, host, share, segment)
        for host in dict.fromkeys(times.hosts)
        for share in [_least_wait_share(times, host)]
        for segment in _crowded(share)
    ]
    return [f for f in findings if f.slowdown is None or f.slowdown >= MIN_SLOWDOWN]


def _crowded(share: NDArray[np.float64]) -> list[Segment]:
    if share.size < MIN_STEPS:
        return []
    usual = float(np.quantile(share, 0.25))
    if usual >= MIN_PERSISTENT_SHARE:
        return [Segment(0, share.size)]
    rise = share - usual
    return [
        segment
        for segment in maximal_segments(rise - MIN_RISE / 2)
        if len(segment) >= MIN_STEPS and float(np.median(rise[segment.slice])) >= MIN_RISE
    ]


def _least_wait_share(times: StepTimes, host: str) -> NDArray[np.float64]:
    """Per step, the smallest share of it that any rank of the host waited for a core, [S]."""
    local = np.array([h == host for h in times.hosts], dtype=np.bool_)
    share = times.run_queue_wait[:, local] / np.maximum(times.duration[:, local], 1e-9)
    return np.asarray(np.nan_to_num(np.min(share, axis=1), nan=0.0))


def _describe(times: StepTimes, host: str, share: NDArray[np.float64], segment: Segment) -> Finding:
    steps = times.steps[segment.slice]
    apart = outside(times.steps.size, [segment])
    duration = np.max(times.duration, axis=1)
    waited = float(np.median(share[segment.slice]))
    # Crowded from end to end, the run shows no usual step to compare with.
    otherwise = float(np.median(share[apart])) if apart.any() else None
    usual = float(np.quantile(duration, 0.25)) if apart.any() else None
    lost = np.maximum(share - (MIN_RISE if otherwise is None else otherwise), 0.0) * duration
    run, first, last = times.run_id.replace("'", "''"), int(steps[0]), int(steps[-1])
    return Finding(
        kind="host_contention",
        ranks=(),
        hosts=(host,),
        phase="step",
        cause="cpu_contention",
        first_step=first,
        last_step=last,
        slowdown=float(np.median(duration[segment.slice])) / usual if usual else None,
        share_lost=float(np.sum(lost[segment.slice])) / max(times.wall, 1e-9),
        confidence=Confidence.POSSIBLE,
        evidence=(
            Evidence(
                what="share of a step that every rank waited for a core",
                value=waited,
                against="" if otherwise is None else "otherwise",
                baseline=otherwise,
                unit="",
            ),
        ),
        sql=(
            "SELECT step, rank, round(value, 4) AS run_queue_wait_s FROM samples"  # noqa: S608 - shown
            f" WHERE run_id = '{run}' AND name = 'run_queue_wait_s'"
            f" AND step BETWEEN {first} AND {last} ORDER BY step, rank"
        ),
        action="find what else is busy on this host (top), or ask for a quieter one",
    )
