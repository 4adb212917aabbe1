"""How findings read in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playbooks.diagnosis import Diagnosis
    from playbooks.finding import Evidence, Finding


_LONG_S = 10.0


def render_diagnosis(diagnosis: Diagnosis) -> str:
    """Every finding with its evidence, or that nothing was found and in how much data."""
    looked_at = (
        f"{diagnosis.run_id}: {diagnosis.steps} steps of {diagnosis.ranks} rank(s),"
        f" {diagnosis.wall_s:.1f} s of stepping"
    )
    if not diagnosis.steps and not diagnosis.findings:
        return f"{diagnosis.run_id}: no steps were recorded, so there is nothing to compare"
    if not diagnosis.findings:
        return f"{looked_at}\nno findings: nothing is wrong that these playbooks can see"
    blocks = [render_finding(i, f) for i, f in enumerate(diagnosis.findings, start=1)]
    return "\n\n".join([looked_at, *blocks])


def render_finding(number: int, finding: Finding) -> str:
    """Headline first: who, what, when, why, how sure, how much."""
    who = _who(finding)
    lines = [
        f"[{number}] {finding.kind}: {who}{_steps(finding)}{_slowdown(finding)}"
        f" ({finding.confidence})",
        f"    cause     {finding.cause.replace('_', ' ')}",
        f"    phase     {finding.phase}",
        f"    cost      {finding.share_lost:.1%} of the run",
        *(f"    evidence  {_fact(evidence)}" for evidence in finding.evidence),
        f"    do        {finding.action}",
        f'    see it    opsuite query "{finding.sql}"',
    ]
    return "\n".join(lines)


def _who(finding: Finding) -> str:
    hosts = ", ".join(finding.hosts)
    if not finding.ranks:
        return f"host {hosts}"
    ranks = ", ".join(str(rank) for rank in finding.ranks)
    return f"rank {ranks} on {hosts}"


def _steps(finding: Finding) -> str:
    if finding.first_step < 0:  # seen from outside, where steps have no number
        return ""
    if finding.first_step == finding.last_step:
        return f", step {finding.first_step}"
    return f", steps {finding.first_step}-{finding.last_step}"


def _slowdown(finding: Finding) -> str:
    return "" if finding.slowdown is None else f", {finding.slowdown:.2f}x slower"


def _fact(evidence: Evidence) -> str:
    if evidence.value is None:
        return evidence.what
    fact = f"{evidence.what}: {_figure(evidence.value, evidence.unit)}"
    if evidence.baseline is None:
        return fact
    return f"{fact}; {evidence.against}: {_figure(evidence.baseline, evidence.unit)}"


def _figure(value: float, unit: str) -> str:
    if unit != "s":
        return f"{value:g} {unit}" if unit else f"{value:.2f}"
    return f"{value * 1e3:.1f} ms" if value < _LONG_S else f"{value:.1f} s"
