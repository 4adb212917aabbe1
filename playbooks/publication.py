"""Findings become events of their run, so that SQL and screens see them too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from collectors.annotation import annotate

if TYPE_CHECKING:
    from collectors.run import RunDirectory
    from playbooks.diagnosis import Diagnosis
    from playbooks.finding import Finding
    from playbooks.step_times import Source

_KNOWN = "SELECT attributes FROM events WHERE run_id = ? AND name = 'finding'"
_MOST_BYTES = 15_000  # an event's attributes may be 16 KiB


def publish(diagnosis: Diagnosis, run: RunDirectory, source: Source) -> int:
    """Record the findings that the run does not have yet; returns how many these are.

    Raises:
        StorageError: the run's spool cannot be written.
    """
    told = [_bounded(finding.to_json()) for finding in diagnosis.findings]
    if not told:
        return 0
    known = set(source.arrays(_KNOWN, [diagnosis.run_id])["attributes"].tolist())
    fresh = [data for data in told if _text(data) not in known]
    if fresh:
        annotate(run, "playbooks", "finding", fresh)
    return len(fresh)


def record_finding(run: RunDirectory, finding: Finding, role: str) -> None:
    """Record one finding as ``role``, without looking whether the run has it.

    Raises:
        StorageError: the run's spool cannot be written.
    """
    annotate(run, role, "finding", [_bounded(finding.to_json())])


def _bounded(data: dict[str, Any]) -> dict[str, Any]:
    """A finding that fits into an event: with as much of its evidence as there is room for."""
    while len(_text(data).encode()) > _MOST_BYTES and data["evidence"]:
        data = data | {"evidence": data["evidence"][:-1]}
    return data


def _text(data: dict[str, Any]) -> str:
    """As the recorder writes it."""
    return json.dumps(data, separators=(",", ":"), default=str)
