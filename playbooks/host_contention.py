"""When a whole host is crowded: every rank on it waits for a core. Nobody in particular is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from playbooks.finding import Confidence, Evidence, Finding
from playbooks.segments import Segment, maximal_segments, outside
from playbooks.step_times import median

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from playbooks.step_times import StepTimes

MIN_WAIT_SHARE = 0.15  # of a step spent waiting for a core
MIN_STEPS = 8


def find_host_contention(times: StepTimes) -> list[Finding]:
    """Stretches of steps in which every rank of a host waits for a core. Pure."""
    return [
        _describe(times, host, share, segment)
        for host in dict.fromkeys(times.hosts)
        for share in [_least_wait_share(times, host)]
        for segment in maximal_segments(share - MIN_WAIT_SHARE)
        if len(segment) >= MIN_STEPS and float(median(share[segment.slice])) >= MIN_WAIT_SHARE
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
    inside = float(np.median(duration[segment.slice]))
    # Crowded from end to end, the run shows no usual step: take the waiting off instead.
    uncrowded = duration[apart] if apart.any() else (duration * (1 - share))
    usual = max(float(np.median(uncrowded)), 1e-9)
    waited = float(np.sum(share[segment.slice] * duration[segment.slice]))
    run, first, last = times.run_id.replace("'", "''"), int(steps[0]), int(steps[-1])
    return Finding(
        kind="host_contention",
        ranks=(),
        hosts=(host,),
        phase="step",
        cause="cpu_contention",
        first_step=first,
        last_step=last,
        slowdown=inside / usual,
        share_lost=waited / times.wall if times.wall else 0.0,
        confidence=Confidence.POSSIBLE,
        evidence=(
            Evidence(
                what="share of a step that every rank waited for a core",
                value=float(np.median(share[segment.slice])),
                baseline=float(np.median(share[apart])) if apart.any() else 0.0,
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
