"""What preempting at every token brings: FastServe's set-up, simulated, every policy beside FCFS.

All of it at the load at which FCFS's mean completion time a token is 0.1 s, and the policies that
are no baselines from half to 1.1 of FCFS's capacity. Rounds are seeds, from 0 on: a figure is their
median, its interval their range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from opsuite.bench.result import Row
from opsuite.bench.simulated_cells import Cells, Point
from opsuite.output import narrate
from opsuite.shared_data import find_shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REQUESTS = 5_000
CAPS = (16, 64)
LOADS = (0.5, 0.7, 0.9, 0.95, 1.0, 1.05, 1.1)
WORKLOADS = (
    ("sharegpt-like", 1.0),
    ("alpaca-like", 1.0),
    ("heavy-tailed", 1.0),
    ("heavy-tailed", 4.0),
    ("azure-conv", 1.0),
    ("azure-code", 1.0),
)
ROOMS = ("proactive", "reactive", "recompute")
PER_TOKEN_S = 0.1
_CLOSE = 0.02  # to that, relative
_HALVINGS = 12
# (workload, cap, what) -> how many times better than FCFS skip-join is to be at 0.1 s a token
_TARGETS = {
    ("sharegpt-like", 16, "jct_per_token"): 1.4,
    ("sharegpt-like", 64, "jct_per_token"): 2.0,
    ("sharegpt-like", 64, "jct"): 1.3,
}
_AIMED = "skip-join-mlfq"
_MEANS = {"jct": "JCT", "jct_per_token": "JCT a token"}


def measure(rounds: int) -> list[Row]:
    """Hours; a campaign that was stopped goes on where it was."""
    cells = Cells()
    rows: list[Row] = []
    for workload, cv in _workloads():
        for cap in CAPS:
            points = [
                Point(workload=workload, max_batch=cap, seed=seed, requests=REQUESTS, cv=cv)
                for seed in range(rounds)
            ]
            rows += _rows(cells, points)
    return rows


def _workloads() -> Iterator[tuple[str, float]]:
    for workload, cv in WORKLOADS:
        if workload.startswith("azure") and find_shared("traces") is None:
            narrate(f"{workload} is left out: no shared/traces here or above")
            continue
        yield workload, cv


@dataclass(frozen=True, kw_only=True)
class _Where:
    """Points that differ by their seed, and the load of each."""

    points: Sequence[Point]
    loads: Sequence[float]
    name: str


def _rows(cells: Cells, points: Sequence[Point]) -> list[Row]:
    from engine.simulation.serve.comparison import BASELINES, POLICIES

    loads = [critical_load(partial(_per_token, cells, point)) for point in points]
    critical = _Where(points=points, loads=loads, name=f"at {PER_TOKEN_S:g} s a token")
    rows = [_load_row(points, loads)]
    for policy in POLICIES:
        rows += _compared(cells, critical, policy)
    for room in ROOMS:
        rows += _compared(cells, critical, _AIMED, room)
    for load in LOADS:
        where = _Where(points=points, loads=[load] * len(points), name=f"at {load:g}")
        for policy in POLICIES:
            if policy not in BASELINES:
                rows += _compared(cells, where, policy)
    return rows


def _per_token(cells: Cells, point: Point, load: float) -> float:
    return float(cells.metrics(point, "fcfs", load)["all"]["jct_per_token"]["mean"])


def critical_load(per_token: Callable[[float], float]) -> float:
    """Where a rising function of the load meets 0.1 s, by halving; the nearer end if nowhere."""
    low, high = 0.3, 2.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = per_token(middle)
        if abs(found / PER_TOKEN_S - 1) < _CLOSE:
            return middle
        low, high = (middle, high) if found < PER_TOKEN_S else (low, middle)
    return (low + high) / 2


def _load_row(points: Sequence[Point], loads: Sequence[float]) -> Row:
    return Row(
        name=f"{points[0].name}: load at which FCFS takes {PER_TOKEN_S:g} s a token",
        value=median(loads),
        unit="of FCFS's capacity",
        rounds=len(points),
        interval=(min(loads), max(loads)),
    )


def _compared(cells: Cells, where: _Where, policy: str, room: str | None = None) -> list[Row]:
    """Mean times beside FCFS's; the rest of the distribution in the note."""
    pairs = list(zip(where.points, where.loads, strict=True))
    found = [cells.metrics(point, policy, load, room) for point, load in pairs]
    fcfs = [cells.metrics(point, "fcfs", load) for point, load in pairs]
    point = where.points[0]
    name = f"{point.name}, {where.name}: {policy}{f' ({room})' if room else ''}"
    rows = []
    for what, shown in _MEANS.items():
        better = _TARGETS.get((point.workload, point.max_batch, what))
        aimed = policy == _AIMED and room is None and where.name.endswith("token")
        row = _row(f"{name}, {shown}", what, found, fcfs, better if aimed else None)
        rows.append(replace(row, note=_note(found, fcfs)) if what == "jct" else row)
    return rows


def _row(
    name: str,
    what: str,
    found: Sequence[dict[str, Any]],
    fcfs: Sequence[dict[str, Any]],
    better: float | None,
) -> Row:
    means = [_of(each, "all", what, "mean") for each in found]
    baseline = [_of(each, "all", what, "mean") for each in fcfs]
    ratios = [mine / theirs for mine, theirs in zip(means, baseline, strict=True)]
    return Row(
        name=name,
        value=median(means),
        unit="s",
        rounds=len(found),
        baseline=median(baseline),
        ratio=median(ratios),
        interval=(min(ratios), max(ratios)),
        target="" if better is None else f">= {better:g} x better than FCFS",
        met=None if better is None else median(ratios) <= 1 / better,
    )


def _note(found: Sequence[dict[str, Any]], fcfs: Sequence[dict[str, Any]]) -> str:
    """FCFS over this policy (more is better), medians over seeds, and what it cost."""

    def gain(part: str, figure: str) -> str:
        pairs = zip(found, fcfs, strict=True)
        gains = (_of(b, part, "jct", figure) / _of(a, part, "jct", figure) for a, b in pairs)
        return f"{median(gains):.2f}"

    gains = [f"P95 {gain('all', 'p95')}", f"P99 {gain('all', 'p99')}"]
    gains += [f"{part} prompts {gain(part, 'mean')} (P99 {gain(part, 'p99')})" for part in _PARTS]
    cost = ", ".join(f"{median(each[what] for each in found):,.0f} {text}" for what, text in _COST)
    return f"JCT, FCFS over this: {', '.join(gains)}; {cost}"


_PARTS = ("short", "long")
_COST = (
    ("unfinished", "unfinished"),
    ("preemptions", "preemptions"),
    ("swapped_bytes", "bytes swapped"),
    ("recomputed_tokens", "tokens recomputed"),
)


def _of(metrics: dict[str, Any], part: str, what: str, figure: str) -> float:
    return float(metrics[part][what][figure])
