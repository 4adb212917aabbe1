"""Which rank does the same work more slowly than its peers, and than itself before.

A rank that waits in a collective looks slow to a timer, so only *own* time counts: the phases of
a step without the collectives inside them. A rank is named when its own time rises above its
peers' *and* above its own past for a stretch of steps, by more than the run's noise allows; or
when it lay above its peers all along.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from playbooks.finding import Confidence, Evidence, Finding
from playbooks.segments import Segment, block_noise, maximal_segments, outside, step_noise
from playbooks.step_times import median

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from playbooks.step_times import StepTimes

MIN_SLOWDOWN = 1.15  # below this a slow stretch is not worth a person's time
MIN_STEPS = 8  # a shorter stretch cannot be told from a hiccup
_WARM_UP_STEPS = 2  # allocations, lazy imports
_SIGMAS_LIKELY = 4.0
_SIGMAS_CERTAIN = 8.0
_CLIP = np.log(3.0)  # one monstrous step may not speak for its neighbours
_EXPLAINED = 0.5  # of the excess, by waiting for a core or by more time on it
# Of the run, or this long: a stretch that cost less is not told. Cores of shared machines slow down
# by a third for seconds at a time when a neighbour uses their other half; nobody here can help it.
_MIN_SHARE_LOST = {"cpu_contention": 0.01, "slow_core": 0.06, "unknown": 0.01}
_ALWAYS_WORTH_S = 60.0
_SHARED_CONTENTION = 0.5  # the peers wait for their cores at least this much as well
_PERSISTENT_SHARE = 0.8  # of the run: then there is no healthy past to compare with


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """Steps in which one rank lags. ``excess`` is a log ratio, ``sigmas`` its size in noise."""

    segment: Segment
    excess: float
    sigmas: float


def find_stragglers(times: StepTimes) -> list[Finding]:
    """Name the ranks that hold their peers up; costliest first. Pure."""
    times = _without_warm_up(times)
    if times.ranks.size < 2 or times.steps.size < MIN_STEPS:
        return []
    findings = [
        _describe(times, rank, stretch)
        for rank in range(times.ranks.size)
        for stretch in _lagging(times, rank)
        if not _shared(times, rank, stretch.segment)
    ]
    worth_telling = [f for f in findings if _costs_enough(f, times.wall)]
    return sorted(worth_telling, key=lambda finding: -finding.share_lost)


def _without_warm_up(times: StepTimes) -> StepTimes:
    keep = slice(_WARM_UP_STEPS, None)
    return replace(
        times,
        steps=times.steps[keep],
        duration=times.duration[keep],
        own={name: own[keep] for name, own in times.own.items()},
        blocked=times.blocked[keep],
        run_queue_wait=times.run_queue_wait[keep],
        cpu_time=times.cpu_time[keep],
    )


def _lagging(times: StepTimes, rank: int) -> list[_Stretch]:
    """The stretches in which this rank lags behind its peers."""
    against_peers = np.log(_floored(times.work[:, rank]) / _floored(_peers(times.work, rank)))
    persistent = _persistent(against_peers)
    if persistent:
        return [persistent]
    usual = float(np.quantile(against_peers, 0.25))
    own = np.log(_floored(times.work[:, rank]))
    against_past = own - float(np.quantile(own, 0.25))
    # Lighter work than the peers' is no debt: slower than oneself is not yet slower than they.
    rise = np.minimum(against_peers - max(usual, 0.0), against_past)
    return _stretches(np.clip(rise, -_CLIP, _CLIP))


def _persistent(against_peers: NDArray[np.float64]) -> _Stretch | None:
    """The whole run, if the rank lay above its peers in nearly all of it."""
    excess = float(np.median(against_peers))
    above = np.mean(against_peers > np.log(MIN_SLOWDOWN) / 2)
    noise = block_noise(against_peers, MIN_STEPS)
    if above < _PERSISTENT_SHARE or not _material(excess, noise):
        return None
    everything = Segment(0, against_peers.size)
    return _Stretch(segment=everything, excess=excess, sigmas=excess / max(noise, 1e-9))


def _stretches(rise: NDArray[np.float64]) -> list[_Stretch]:
    """Where ``rise`` stays up, with borders half-way between the usual and the raised level."""
    raised = _raised(rise)
    quiet = rise[outside(rise.size, raised)]
    usual = float(np.median(quiet)) if quiet.size else 0.0
    found = []
    for segment in raised:
        borders = _borders(rise, segment)
        excess = float(np.median(rise[borders.slice])) - usual
        noise = max(block_noise(quiet, len(borders)), step_noise(rise) / len(borders) ** 0.5)
        if len(borders) >= MIN_STEPS and _material(excess, noise):
            found.append(_Stretch(segment=borders, excess=excess, sigmas=excess / max(noise, 1e-9)))
    return found


def _raised(rise: NDArray[np.float64]) -> list[Segment]:
    level = max(np.log(MIN_SLOWDOWN) / 2, step_noise(rise))
    segments = maximal_segments(rise - level)
    return [segment for segment in segments if len(segment) >= MIN_STEPS]


def _borders(rise: NDArray[np.float64], segment: Segment) -> Segment:
    """The part of the segment that votes for its own level rather than for the usual one."""
    votes = np.full_like(rise, -_CLIP)
    votes[segment.slice] = rise[segment.slice] - float(np.median(rise[segment.slice])) / 2
    return max(maximal_segments(votes), key=len, default=segment)


def _material(excess: float, noise: float) -> bool:
    return bool(excess >= max(np.log(MIN_SLOWDOWN), _SIGMAS_LIKELY * noise))


def _shared(times: StepTimes, rank: int, segment: Segment) -> bool:
    """Whether the peers had to wait for their cores too: the host is crowded, not the rank slow."""
    waited = _rise(times.run_queue_wait, segment)
    if not waited[rank] >= _EXPLAINED * _rise(times.work, segment)[rank]:
        return False
    neighbours = [i for i, h in enumerate(times.hosts) if h == times.hosts[rank] and i != rank]
    return bool(neighbours) and bool(
        median(waited[neighbours]) >= _SHARED_CONTENTION * waited[rank]
    )


def _describe(times: StepTimes, rank: int, stretch: _Stretch) -> Finding:
    segment = stretch.segment
    steps = times.steps[segment.slice]
    expected = _peers(times.work, rank)[segment.slice] * float(
        np.exp(0.0 if len(segment) == times.steps.size else _usual_ratio(times, rank, segment))
    )
    lost = float(np.sum(np.maximum(times.work[segment.slice, rank] - expected, 0.0)))
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
        slowdown=float(np.exp(stretch.excess)),
        share_lost=lost / times.wall if times.wall else 0.0,
        confidence=_confidence(stretch),
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


def _confidence(stretch: _Stretch) -> Confidence:
    strong = stretch.sigmas >= _SIGMAS_CERTAIN and stretch.excess >= np.log(2 * MIN_SLOWDOWN - 1)
    return Confidence.CERTAIN if strong else Confidence.LIKELY


def _usual_ratio(times: StepTimes, rank: int, segment: Segment) -> float:
    """Log ratio to the peers outside the segment."""
    ratio = np.log(_floored(times.work[:, rank]) / _floored(_peers(times.work, rank)))
    return float(np.median(ratio[outside(ratio.size, [segment])]))


def _costliest_phase(times: StepTimes, rank: int, segment: Segment) -> str:
    rises = {name: float(_rise(own, segment)[rank]) for name, own in times.own.items()}
    if len(segment) == times.steps.size:
        rises = {
            name: float(median(own[:, rank]) - median(_peers(own, rank)))
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
    peers, blocked = _peers(times.work, rank), _peers(times.blocked, rank)
    facts = [
        _fact("own time a step", work[inside], "its peers", peers[inside]),
        _fact("own time a step", work[inside], "itself otherwise", work[past]),
        _fact("its peers blocked a step", blocked[inside], "otherwise", blocked[past]),
        _fact("waiting for its core a step", waits[inside], "otherwise", waits[past]),
        _fact("on its core a step", busy[inside], "otherwise", busy[past]),
    ]
    facts += [
        _fact(f"own time in {name}", own[inside, rank], "its peers", _peers(own, rank)[inside])
        for name, own in times.own.items()
    ]
    return [f for f in facts if np.isfinite(f.value) and np.isfinite(f.baseline)]


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


def _peers(values: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """Median over all other ranks, [S]."""
    return median(np.delete(values, rank, axis=1), axis=1)


def _rise(values: NDArray[np.float64], segment: Segment) -> NDArray[np.float64]:
    """Per rank, how much the median inside the segment lies above the one outside, [R]."""
    apart = outside(values.shape[0], [segment])
    inside = values[segment.slice]
    if not apart.any() or not np.isfinite(inside).any():
        return median(inside, axis=0)
    return median(inside, axis=0) - median(values[apart], axis=0)


def _floored(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times as divisors: never zero."""
    return np.maximum(seconds, 1e-9)
