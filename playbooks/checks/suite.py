"""Several checks of this host within a budget of time, and one verdict on it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from collectors.errors import UsageError
from playbooks.checks.check import TOLERANCE, CheckResult, Measurement, Verdict, judge, worst
from playbooks.checks.registry import CHECKS, Terms, measure_in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from playbooks.checks.baseline import Baseline

    Measure = Callable[[str, Terms], list[Measurement]]

GRACE_S = 30.0
"""Beyond its part of the budget, what a check may take before it has failed: PyTorch and CUDA can
take that long to load from a cold disk."""
_LEAST_S = 0.1  # of measuring, however small the budget is


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A choice of checks and the time for them.

    Attributes:
        budget_s: for all, their start on CPUs included.
        grace_s: beyond its part of it, what each may take before it has failed.
        thorough: also what takes long to start.
    """

    checks: tuple[str, ...]
    budget_s: float
    grace_s: float = GRACE_S
    thorough: bool = False


QUICK = Profile(checks=("memory", "loopback", "burn-in"), budget_s=2.0)
"""Before a job begins anew: nothing that loads PyTorch, unless there are GPUs."""
FULL = Profile(checks=tuple(CHECKS), budget_s=60.0, grace_s=60.0, thorough=True)
"""Of a host that is under suspicion, or new."""


@dataclass(frozen=True, kw_only=True)
class HostVerdict:
    """What is to be thought of this host.

    Attributes:
        verdict: the worst of the results.
        hardware: fingerprint of its kind.
    """

    verdict: Verdict
    results: tuple[CheckResult, ...]
    hardware: str
    elapsed_s: float

    @property
    def fine(self) -> bool:
        """Nothing is wrong, as far as was checked."""
        return not self.verdict.bad

    @property
    def sound(self) -> bool:
        """Nothing is corrupt or failed: what is wrong may be a neighbour's load."""
        return self.verdict not in {Verdict.CORRUPT, Verdict.FAILED}

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "verdict": str(self.verdict),
            "fine": self.fine,
            "sound": self.sound,
            "hardware": self.hardware,
            "elapsed_s": self.elapsed_s,
            "results": [result.to_json() for result in self.results],
        }


def run_checks(
    profile: Profile,
    baseline: Baseline,
    *,
    tolerance: float = TOLERANCE,
    flip_bit: int | None = None,
    measure: Measure = measure_in_child,
) -> HostVerdict:
    """Check this host, each check in a process of its own.

    A check that found something slow is run once more, and the better figure counts: a neighbour
    for a second is no reason to give a host up. So all takes about the budget, twice that where
    something is slow, and ``grace_s`` more for each check that hangs.

    Args:
        baseline: of this hardware; what it has no figure for is not judged for speed.
        flip_bit: for drills (:class:`~playbooks.checks.registry.Terms`).
        measure: runs one check.

    Raises:
        UsageError: there is no check of such a name, or none was named.
    """
    begun = time.monotonic()
    found: list[Measurement] = []
    for name, terms in plan(profile, flip_bit=flip_bit).items():
        measured = measure(name, terms)
        judged = (judge(each, baseline.of(each), tolerance) for each in measured)
        if any(result.verdict is Verdict.SLOW for result in judged):
            measured = better(measured, measure(name, terms))
        found += measured
    elapsed_s = time.monotonic() - begun
    return judge_host(found, baseline, tolerance=tolerance, elapsed_s=elapsed_s)


def judge_host(
    measurements: Sequence[Measurement],
    baseline: Baseline,
    *,
    tolerance: float = TOLERANCE,
    elapsed_s: float,
) -> HostVerdict:
    """The verdict that follows from measurements; pure."""
    results = tuple(judge(each, baseline.of(each), tolerance) for each in measurements)
    return HostVerdict(
        verdict=worst(result.verdict for result in results),
        results=results,
        hardware=baseline.hardware.fingerprint,
        elapsed_s=elapsed_s,
    )


def measure_rounds(
    profile: Profile, *, rounds: int, measure: Measure = measure_in_child
) -> list[list[Measurement]]:
    """All measurements of each of several rounds, for a baseline."""
    checks = plan(profile).items()
    return [
        [each for name, terms in checks for each in measure(name, terms)] for _ in range(rounds)
    ]


def plan(profile: Profile, *, flip_bit: int | None = None) -> dict[str, Terms]:
    """How long each check measures, in the order of the registry, so that all keep the budget."""
    require_known(profile.checks)
    entries = {name: entry for name, entry in CHECKS.items() if name in profile.checks}
    measuring_s = profile.budget_s - sum(entry.start_s for entry in entries.values())
    weights = sum(entry.weight for entry in entries.values())
    return {
        name: Terms(
            seconds=max(_LEAST_S, measuring_s * entry.weight / weights),
            grace_s=profile.grace_s,
            thorough=profile.thorough,
            flip_bit=flip_bit,
        )
        for name, entry in entries.items()
    }


def require_known(names: Sequence[str]) -> None:
    """Raise a UsageError unless every name is a check's, and there is one."""
    unknown = [name for name in names if name not in CHECKS]
    if unknown or not names:
        raise UsageError(
            f"there is no check {', '.join(unknown)}" if unknown else "no check is named",
            remedy=f"name some of {', '.join(CHECKS)}",
        )


def better(first: Sequence[Measurement], second: Sequence[Measurement]) -> list[Measurement]:
    """Of two runs, for each subject the better figure; a fault counts wherever it came up."""
    again = {measurement.subject: measurement for measurement in second}
    known = {measurement.subject for measurement in first}
    chosen = [_better(old, again.get(old.subject, old)) for old in first]
    return chosen + [new for new in second if new.subject not in known]


def _better(old: Measurement, new: Measurement) -> Measurement:
    for measurement in (old, new):
        if measurement.fault is not None:
            return measurement
    return max(old, new, key=lambda measurement: measurement.value or 0.0)
