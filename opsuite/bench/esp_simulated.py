"""What elastic sequence parallelism brings: LoongServe's set-up, simulated, beside fixed ways.

The highest rate at which each policy keeps each objective, by workload. Every policy has the best
of its variants for each objective, as the first seed shows it. Rounds are seeds, from 0 on (of the
recorded trace, its parts): a figure is their median, its interval their range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import TYPE_CHECKING

from collectors.errors import UsageError
from opsuite.bench.elastic_decision import decision_row
from opsuite.bench.fleet_cells import FleetCells, Load
from opsuite.bench.result import Row
from opsuite.output import narrate
from opsuite.shared_data import find_shared

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.simulation.fleet.fleet_serving import FleetServing, Variant
    from engine.simulation.fleet.highest_rate import RateSearch
    from engine.simulation.fleet.slo import Objective

# name -> requests, and a rate to begin the search with
WORKLOADS = {
    "leval-like": (1_800, 0.8),
    "lveval-like": (1_800, 0.08),
    "mixed": (1_800, 0.25),
    "mooncake": (4_000, 2.5),
    "sharegpt-like": (12_000, 60.0),
}
ELASTIC = ("esp",)
# Requests a second within 25 times the unloaded latency (LoongServe, section 7.2), on real texts
_PAPER = {
    "sharegpt-like": {"esp": 29.5, "tp": 6.35, "chunked": 23.1, "disaggregated": 10.4},
    "leval-like": {"esp": 2.42, "tp": 1.14, "chunked": 1.23, "disaggregated": 0.415},
    "lveval-like": {"esp": 0.201, "tp": 0.090, "chunked": 0.082},
    "mixed": {"esp": 0.553, "tp": 0.208, "chunked": 0.144},
}
_PAPER_SYSTEMS = {
    "esp": "LoongServe",
    "tp": "vLLM 0.3, TP8",
    "chunked": "LightLLM SplitFuse",
    "disaggregated": "DistServe 4 + 4",
}
# at mean normalised latency <= 5x: (workload, baseline) -> how many times its rate
_TARGETS = {
    ("leval-like", "chunked"): 1.5,
    ("leval-like", "chunked-short-first"): 1.5,
    ("mixed", "chunked"): 1.4,
    ("mixed", "chunked-short-first"): 1.4,
    ("leval-like", "disaggregated"): 2.5,
    ("mixed", "disaggregated"): 2.5,
}
_LEAST_OF_BEST = 0.97
_FITTED = (("prefill", "", 0.05), ("decode", "", 0.2), ("decode", "SP4TP2", 0.1))


@dataclass(frozen=True, kw_only=True)
class Found:
    """Attributes:
    variant: of the policy.
    rates: requests a second, of each seed.
    """

    workload: str
    policy: str
    objective: Objective
    variant: str
    rates: tuple[float, ...]


def measure(rounds: int) -> list[Row]:
    """A campaign that was stopped goes on where it was; the baselines come first."""
    from engine.simulation.fleet.policies import FLEET_POLICIES
    from engine.simulation.fleet.set_up import loongserve_set_up

    set_up = loongserve_set_up()
    cells = FleetCells(set_up, ELASTIC)
    found: list[Found] = []
    unable: list[Row] = []
    baselines_first = sorted(FLEET_POLICIES.values(), key=lambda each: each.name in ELASTIC)
    for policy, (workload, (requests, guess)) in product(baselines_first, _workloads()):
        loads = [Load(workload=workload, requests=requests, seed=seed) for seed in range(rounds)]
        try:
            for load in loads:
                policy.check(load.drawn, set_up)
        except UsageError as error:
            unable.append(_unable(policy, workload, error))
            continue
        found += search(cells, policy, loads, guess)
    return [*fitted_rows(), decision_row(), *verdicts(found), *map(_row, found), *unable]


def _workloads() -> Iterator[tuple[str, tuple[int, float]]]:
    for workload, asked in WORKLOADS.items():
        if workload == "mooncake" and find_shared("traces") is None:
            narrate(f"{workload} is left out: no shared/traces here or above")
            continue
        yield workload, asked


class _Searches:
    """Of one policy on one workload: one of each variant and seed for all objectives, so that
    nothing is simulated twice."""

    def __init__(self, cells: FleetCells, policy: FleetServing) -> None:
        self._cells = cells
        self.policy = policy
        self._made: dict[tuple[str, int], RateSearch] = {}

    def of(self, variant: Variant, load: Load) -> RateSearch:
        """Makes it at first."""
        from engine.simulation.fleet.highest_rate import RateSearch

        key = variant.name, load.seed
        if key not in self._made:
            self._made[key] = RateSearch(lambda rate: self._figures(variant, load, rate))
        return self._made[key]

    def _figures(self, variant: Variant, load: Load, rate: float) -> dict[str, float]:
        """Without bound where the fleet does not keep up."""
        found = self._cells.slowdown(load, self.policy, variant, rate)
        return found if found["keeps_up"] else dict.fromkeys(found, math.inf)

    def tuned(self, load: Load, objective: Objective, guess: float) -> tuple[Variant, float]:
        """The variant with the highest rate, and that: one that does not keep the objective at a
        rate that is a little higher than the best one's is not looked at further."""
        from engine.simulation.fleet.highest_rate import PRECISION

        name, most = objective.figure, objective.most
        best = self.policy.variants[0]
        highest = self.of(best, load).highest(name, most, guess)
        for variant in self.policy.variants[1:]:
            one, higher = self.of(variant, load), highest * PRECISION or guess
            if not highest or one.figure(name, higher) <= most:
                found = one.highest(name, most, higher)
                best, highest = (variant, found) if found > highest else (best, highest)
        return best, highest


def search(
    cells: FleetCells, policy: FleetServing, loads: Sequence[Load], guess: float
) -> Iterator[Found]:
    """The highest rates of one policy on one workload."""
    from engine.simulation.fleet.slo import OBJECTIVES

    searches = _Searches(cells, policy)
    for objective in OBJECTIVES:
        variant, rate = searches.tuned(loads[0], objective, guess)
        guess = rate or guess
        others = [
            searches.of(variant, load).highest(objective.figure, objective.most, guess)
            for load in loads[1:]
        ]
        found = Found(
            workload=loads[0].workload,
            policy=policy.name,
            objective=objective,
            variant=variant.name,
            rates=(rate, *others),
        )
        narrate(
            f"{found.workload}, {objective.name}: {policy.name} {median(found.rates):.4g}"
            f" requests/s {found.variant}"
        )
        yield found


# -- what is asked for ---


def fitted_rows() -> Iterator[Row]:
    """How far the model is off what was measured."""
    from engine.simulation.fleet.device_model import fit_devices, residuals
    from engine.simulation.fleet.measured import CELLS

    found = residuals(fit_devices(CELLS), CELLS)
    for what, split, most in _FITTED:
        errors = [
            (abs(getattr(each, what)), each.cell.name)
            for each in found
            if each.cell.name.startswith(split)
        ]
        worst, where = max(errors)
        yield Row(
            name=f"fitted {what}, {split or 'every measured cell'}: the farthest off",
            value=worst,
            unit="of the measured time",
            rounds=len(errors),
            target=f"<= {most:g}",
            met=worst <= most,
            note=where,
        )


def verdicts(found: Sequence[Found]) -> Iterator[Row]:
    """The elastic policy beside the baselines."""
    for ours in found:
        if ours.policy not in ELASTIC:
            continue
        others = [
            each
            for each in found
            if (each.workload, each.objective) == (ours.workload, ours.objective)
            and each.policy not in ELASTIC
        ]
        if others:
            yield _beside_best(ours, others)
        if ours.objective.name.startswith("mean") and ours.objective.most == 5:
            for each in others:
                least = _TARGETS.get((each.workload, each.policy))
                if least is not None:
                    yield _beside(ours, each, least)


def _beside_best(ours: Found, others: Sequence[Found]) -> Row:
    best = max(others, key=lambda each: median(each.rates))
    return _beside(ours, best, _LEAST_OF_BEST, "the best baseline, ")


def _beside(ours: Found, other: Found, least: float, called: str = "") -> Row:
    pairs = zip(ours.rates, other.rates, strict=True)
    ratios = [mine / its if its else math.inf for mine, its in pairs]
    return Row(
        name=f"{ours.workload}, {ours.objective.name}: {ours.policy} beside {called}{other.policy}",
        value=median(ours.rates),
        unit="requests/s",
        rounds=len(ratios),
        baseline=median(other.rates),
        ratio=None if math.isinf(max(ratios)) else median(ratios),
        interval=None if math.isinf(max(ratios)) else (min(ratios), max(ratios)),
        target=f">= {least:g} x",
        met=median(ratios) >= least,
    )


# -- the table ---


def _row(found: Found) -> Row:
    paper = _PAPER.get(found.workload, {}).get(found.policy)
    notes = [found.variant] if found.variant else []
    if not any(found.rates):
        notes.append("at no rate: requests that come together disturb each other")
    if paper is not None and found.objective.most == 25:
        notes.append(f"the paper's {_PAPER_SYSTEMS[found.policy]}: {paper:g}")
    return Row(
        name=f"{found.workload}, {found.objective.name}: {found.policy}",
        value=median(found.rates),
        unit="requests/s",
        rounds=len(found.rates),
        interval=(min(found.rates), max(found.rates)),
        note="; ".join(notes),
    )


def _unable(policy: FleetServing, workload: str, why: UsageError) -> Row:
    narrate(f"{workload}: {why.what}")
    return Row(
        name=f"{workload}: {policy.name}", value=None, unit="requests/s", rounds=0, note=why.what
    )
