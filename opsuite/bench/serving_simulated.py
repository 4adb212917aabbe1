"""What preempting at every token brings: FastServe's set-up, simulated, every policy beside FCFS.

All of it at the load at which FCFS's mean completion time a token is 0.1 s; our default and its
bounds at given loads. Rounds are seeds, from 0 on: a figure is their median, its interval their
range. About 1,500 simulations of 5,000 requests: an hour of one core for three seeds.
"""

from __future__ import annotations

from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING

from opsuite.bench.result import Row
from opsuite.bench.simulated_cells import Cells, Point
from opsuite.bench.simulated_comparison import Comparison, means, shares, worst
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
PER_TOKEN_S = 0.1
_ROOMS = ("reactive", "recompute")  # beside the proactive swapping that is meant
_CLOSE = 0.05  # to that, relative
_HALVINGS = 10
_AIMED, _NAIVE, _OURS = "skip-join-mlfq", "mlfq", "adaptive"
_SRPT, _GITTINS = "srpt-oracle", "gittins-oracle"
_CRITICAL = (_AIMED, _NAIVE, _OURS, _SRPT, _GITTINS, "orca", "fastertransformer", "chunked")
_LOW, _NEAR = (0.5, 0.7), (0.9, 0.95, 1.0, 1.05)
# (workload, cap, what) -> how many times better than FCFS skip-join is to be at 0.1 s a token
_TARGETS = {
    ("sharegpt-like", 16, "jct_per_token"): 1.4,
    ("sharegpt-like", 64, "jct_per_token"): 2.0,
    ("sharegpt-like", 64, "jct"): 1.3,
}
_MEANS = {"jct": "JCT", "jct_per_token": "JCT a token"}


def measure(rounds: int) -> list[Row]:
    """A campaign that was stopped goes on where it was."""
    cells = Cells()
    found: list[Comparison] = []
    loads: list[Row] = []
    for workload, cv in _workloads():
        for cap in CAPS:
            points = [
                Point(workload=workload, max_batch=cap, seed=seed, requests=REQUESTS, cv=cv)
                for seed in range(rounds)
            ]
            critical = [critical_load(cells, point) for point in points]
            loads.append(_load_row(points, critical))
            for point, load in zip(points, critical, strict=True):
                found += compare(cells, point, load)
    return [*verdicts(found), *loads, *_tables(found)]


def _workloads() -> Iterator[tuple[str, float]]:
    for workload, cv in WORKLOADS:
        if workload.startswith("azure") and find_shared("traces") is None:
            narrate(f"{workload} is left out: no shared/traces here or above")
            continue
        yield workload, cv


def critical_load(cells: Cells, point: Point) -> float:
    """At which FCFS takes 0.1 s a token."""

    def per_token(load: float) -> float:
        return float(cells.metrics(point, "fcfs", load)["all"]["jct_per_token"]["mean"])

    return meets(per_token)


def meets(per_token: Callable[[float], float]) -> float:
    """Where a rising function of the load meets 0.1 s, by halving; the nearer end if nowhere."""
    low, high = 0.5, 1.5
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = per_token(middle)
        if abs(found / PER_TOKEN_S - 1) < _CLOSE:
            return middle
        low, high = (middle, high) if found < PER_TOKEN_S else (low, middle)
    return (low + high) / 2


def compare(cells: Cells, point: Point, critical: float) -> Iterator[Comparison]:
    """All that is asked of one workload, cap and seed."""

    def one(policy: str, load: float | None = None, room: str | None = None) -> Comparison:
        at = critical if load is None else load
        return Comparison(
            point=point,
            policy=policy,
            load=at,
            critical=load is None,
            room=room,
            found=cells.metrics(point, policy, at, room),
            fcfs=cells.metrics(point, "fcfs", at),
        )

    yield from map(one, _CRITICAL)
    for room in _ROOMS:
        yield one(_AIMED, room=room)
    for load in LOADS:
        yield one(_OURS, load)
        if load in _LOW:
            yield one(_AIMED, load)
        if load in _NEAR:
            yield one(_SRPT, load)
            yield one(_GITTINS, load)


def _load_row(points: Sequence[Point], loads: Sequence[float]) -> Row:
    return Row(
        name=f"{points[0].name}: load at which FCFS takes {PER_TOKEN_S:g} s a token",
        value=median(loads),
        unit="of FCFS's capacity",
        rounds=len(points),
        interval=(min(loads), max(loads)),
    )


# -- what is asked for ---


def verdicts(found: Sequence[Comparison]) -> list[Row]:
    """The targets, each over all cells that it is about."""
    ours = [each for each in found if each.policy == _OURS and not each.critical]
    rows = _skip_join(found)
    if ours:
        rows.append(
            worst(
                f"{_OURS}: mean JCT at loads {min(LOADS):g} to {max(LOADS):g}",
                ((each.ratio(), each.name) for each in ours),
                1.03,
                "FCFS's",
            )
        )
        rows.append(
            worst(
                f"{_OURS}: P99 JCT of long prompts",
                ((each.ratio("jct", "long", "p99"), each.name) for each in ours),
                1.5,
                "FCFS's",
            )
        )
    for workload, bound, least in (("sharegpt-like", _GITTINS, 0.85), ("azure-code", _SRPT, 0.6)):
        for cap in CAPS:
            pairs = list(_pairs(found, workload, cap, bound))
            if pairs:
                name = f"{workload}, cap {cap}: {_OURS}'s gain at loads {_NEAR[0]} to {_NEAR[-1]}"
                rows.append(shares(name, pairs, least, bound))
    return rows


def _skip_join(found: Sequence[Comparison]) -> list[Row]:
    naive = {each.name: each for each in found if each.policy == _NAIVE and each.critical}
    meant = [each for each in found if each.policy == _AIMED and each.room is None]
    ratios = [
        (each.figure("jct") / naive[each.name].figure("jct"), each.name)
        for each in meant
        if each.critical
    ]
    best, where = min(ratios)
    rows = [
        worst(f"{_AIMED} beside {_NAIVE}: mean JCT at 0.1 s a token", ratios, 1.03, "naive MLFQ's"),
        Row(
            name=f"{_AIMED} beside {_NAIVE}: mean JCT at its best",
            value=1 / best,
            unit="x better",
            rounds=len(ratios),
            target=">= 1.3",
            met=1 / best >= 1.3,
            note=where,
        ),
    ]
    low = [
        (each.ratio(), each.name)
        for each in meant
        if not each.critical and each.point.workload == "sharegpt-like"
    ]
    if low:
        rows.append(worst(f"sharegpt-like: {_AIMED}'s mean JCT at low loads", low, 1.02, "FCFS's"))
    return rows


def _pairs(
    found: Sequence[Comparison], workload: str, cap: int, bound: str
) -> Iterator[tuple[Comparison, Comparison]]:
    there = [
        each
        for each in found
        if each.point.workload == workload
        and each.point.max_batch == cap
        and each.load in _NEAR
        and not each.critical
    ]
    best = {each.name: each for each in there if each.policy == bound}
    return ((each, best[each.name]) for each in there if each.policy == _OURS)


# -- the tables ---


def _tables(found: Sequence[Comparison]) -> Iterator[Row]:
    """Mean times of each policy, workload, cap and load, over the seeds."""

    def name(each: Comparison) -> str:
        where = f"at {PER_TOKEN_S:g} s a token" if each.critical else f"at {each.load:g}"
        room = f" ({each.room})" if each.room else ""
        return f"{each.point.name}, {where}: {each.policy}{room}"

    for title, group in groupby(sorted(found, key=name), key=name):
        seeds = list(group)
        one = seeds[0]
        aimed = one.policy == _AIMED and one.critical and one.room is None
        for what, shown in _MEANS.items():
            target = _TARGETS.get((one.point.workload, one.point.max_batch, what))
            yield means(f"{title}, {shown}", seeds, what, target if aimed else None)
