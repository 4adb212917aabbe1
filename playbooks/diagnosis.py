"""All playbooks over one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from playbooks.host_contention import find_host_contention
from playbooks.step_times import Source, StepTimes, load_step_times
from playbooks.straggler import find_stragglers

if TYPE_CHECKING:
    from collections.abc import Callable

    from playbooks.finding import Finding


@dataclass(frozen=True, kw_only=True)
class Playbook:
    """One diagnosis: a question, and the pure function that answers it."""

    name: str
    question: str
    examine: Callable[[StepTimes], list[Finding]]


PLAYBOOKS = (
    Playbook(
        name="straggler",
        question="does a rank do the same work more slowly than its peers?",
        examine=find_stragglers,
    ),
    Playbook(
        name="host_contention",
        question="do all ranks of a host wait for its cores?",
        examine=find_host_contention,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What the playbooks found, most expensive first, and what they looked at."""

    run_id: str
    findings: tuple[Finding, ...]
    steps: int
    ranks: int
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        """``findings``, ``metrics`` and ``inputs`` as JSON."""
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "metrics": {"steps": self.steps, "ranks": self.ranks, "wall_s": self.wall_s},
            "inputs": [self.run_id],
        }


def diagnose(source: Source, run_id: str) -> Diagnosis:
    """Ask every playbook about one run."""
    times = load_step_times(source, run_id)
    findings = [finding for playbook in PLAYBOOKS for finding in playbook.examine(times)]
    return Diagnosis(
        run_id=run_id,
        findings=tuple(sorted(findings, key=lambda finding: -finding.share_lost)),
        steps=int(times.steps.size),
        ranks=int(times.ranks.size),
        wall_s=times.wall,
    )
