"""All playbooks over one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from playbooks.finding import Confidence
from playbooks.host_contention import find_host_contention
from playbooks.recorded import recorded_hangs
from playbooks.step_times import Source, StepTimes, load_step_times
from playbooks.straggler import find_stragglers

if TYPE_CHECKING:
    from collections.abc import Callable

    from playbooks.finding import Finding


PLAYBOOKS: tuple[Callable[[StepTimes], list[Finding]], ...] = (
    find_stragglers,
    find_host_contention,
)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What the playbooks found, the surest first and then the costliest, and in how much data."""

    run_id: str
    findings: tuple[Finding, ...]
    steps: int
    ranks: int
    wall_s: float

    @property
    def sure(self) -> tuple[Finding, ...]:
        """The findings that are more than possible: what a script may act on."""
        return tuple(f for f in self.findings if f.confidence is not Confidence.POSSIBLE)

    def to_json(self) -> dict[str, Any]:
        """``findings``, ``metrics`` and ``inputs`` as JSON."""
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "metrics": {"steps": self.steps, "ranks": self.ranks, "wall_s": self.wall_s},
            "inputs": [self.run_id],
        }


def diagnose(source: Source, run_id: str) -> Diagnosis:
    """Ask every playbook about one run; what was said of it while it lived counts as well."""
    times = load_step_times(source, run_id)
    findings = [finding for playbook in PLAYBOOKS for finding in playbook(times)]
    findings += recorded_hangs(source, run_id)
    return Diagnosis(
        run_id=run_id,
        findings=tuple(sorted(findings, key=_importance)),
        steps=int(times.steps.size),
        ranks=int(times.ranks.size),
        wall_s=times.wall,
    )


def _importance(finding: Finding) -> tuple[int, float]:
    return list(Confidence).index(finding.confidence), -finding.share_lost
