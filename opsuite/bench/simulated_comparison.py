"""A policy beside FCFS in one simulated cell, and what many of these say together."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from opsuite.bench.result import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opsuite.bench.simulated_cells import Point

_PARTS = ("short", "long")
_COST = (
    ("unfinished", "unfinished"),
    ("preemptions", "preemptions"),
    ("swapped_bytes", "bytes swapped"),
    ("recomputed_tokens", "tokens recomputed"),
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Attributes:
    load: of FCFS's capacity.
    critical: whether it was sought, not given.
    room: how room is made; None: as the policy is meant to.
    found, fcfs: :class:`~engine.simulation.serve.metrics.Metrics` as data.
    """

    point: Point
    policy: str
    load: float
    critical: bool
    room: str | None
    found: dict[str, Any]
    fcfs: dict[str, Any]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.point.name}, seed {self.point.seed}, load {self.load:.3g}"

    def figure(self, what: str, part: str = "all", figure: str = "mean") -> float:
        """Seconds; ``what`` is jct or jct_per_token, ``part`` all, short or long (prompts)."""
        return float(self.found[part][what][figure])

    def ratio(self, what: str = "jct", part: str = "all", figure: str = "mean") -> float:
        """To FCFS's: below 1 is better."""
        return self.figure(what, part, figure) / float(self.fcfs[part][what][figure])


def means(name: str, seeds: Sequence[Comparison], what: str, better: float | None = None) -> Row:
    """One cell over its seeds: the median of the means, their ratio to FCFS's and its range.

    Args:
        better: how many times better it is to be.
    """
    ratios = [each.ratio(what) for each in seeds]
    return Row(
        name=name,
        value=median(each.figure(what) for each in seeds),
        unit="s",
        rounds=len(seeds),
        baseline=median(float(each.fcfs["all"][what]["mean"]) for each in seeds),
        ratio=median(ratios),
        interval=(min(ratios), max(ratios)),
        target="" if better is None else f">= {better:g} x better than FCFS",
        met=None if better is None else median(ratios) <= 1 / better,
        note=_rest(seeds) if what == "jct" else "",
    )


def _rest(seeds: Sequence[Comparison]) -> str:
    """FCFS over this policy (more is better), medians over seeds, and what it cost."""

    def gain(part: str, figure: str) -> str:
        return f"{median(1 / each.ratio('jct', part, figure) for each in seeds):.2f}"

    gains = [f"P95 {gain('all', 'p95')}", f"P99 {gain('all', 'p99')}"]
    gains += [f"{part} prompts {gain(part, 'mean')} (P99 {gain(part, 'p99')})" for part in _PARTS]
    cost = ", ".join(
        f"{median(each.found[what] for each in seeds):,.0f} {text}" for what, text in _COST
    )
    return f"JCT, FCFS over this: {', '.join(gains)}; {cost}"


def worst(name: str, ratios: Iterable[tuple[float, str]], most: float, than: str) -> Row:
    """Of many cells the one with the largest ratio, which is published.

    Args:
        ratios: each with what it is of.
    """
    found = sorted(ratios, reverse=True)
    value = found[0][0]
    return Row(
        name=name,
        value=value,
        unit=f"of {than}",
        rounds=len(found),
        target=f"<= {most:g}",
        met=value <= most,
        note="the worst cells: " + "; ".join(f"{ratio:.3f}, {where}" for ratio, where in found[:3]),
    )


def shares(
    name: str, pairs: Iterable[tuple[Comparison, Comparison]], least: float, bound: str
) -> Row:
    """How much of a bound's gain over FCFS a policy has: of mean JCT, all cells together, so that
    cells with next to nothing to gain do not count for much.

    Args:
        pairs: the policy and the bound, each cell once.
    """
    gained = possible = 0.0
    each_share = []
    for mine, best in pairs:
        fcfs_s = float(mine.fcfs["all"]["jct"]["mean"])
        gain_s, most_s = fcfs_s - mine.figure("jct"), fcfs_s - best.figure("jct")
        gained, possible = gained + gain_s, possible + most_s
        each_share.append((gain_s / most_s if most_s else 0.0, mine.name))
    share = gained / possible if possible else 0.0
    low, where = min(each_share)
    return Row(
        name=name,
        value=share,
        unit=f"of {bound}'s gain",
        rounds=len(each_share),
        target=f">= {least:g}",
        met=share >= least,
        note=f"the worst of {len(each_share)} cells: {low:.2f}, {where}",
    )
