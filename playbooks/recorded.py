"""Findings that were recorded while the run lived: what the watchdog said of a hang."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from playbooks.finding import Confidence, Evidence, Finding

if TYPE_CHECKING:
    from playbooks.step_times import Source

_SQL = (
    "SELECT attributes FROM events WHERE run_id = ? AND name = 'finding'"
    " AND json_valid(attributes) AND attributes ->> 'kind' = 'hang' ORDER BY at_ns"
)


def recorded_hangs(source: Source, run_id: str) -> list[Finding]:
    """The hangs of a run, each once; records that are none of ours are passed over."""
    found: dict[str, Finding] = {}
    for text in source.arrays(_SQL, [run_id])["attributes"].tolist():
        try:
            finding = _finding(text)
        except (ValueError, KeyError, TypeError):
            continue
        found[json.dumps([finding.cause, finding.ranks, finding.first_step])] = finding
    return list(found.values())


def _finding(text: str) -> Finding:
    data = json.loads(text)
    first, last = data.pop("steps")
    return Finding(
        **data
        | {
            "first_step": int(first),
            "last_step": int(last),
            "ranks": tuple(data["ranks"]),
            "hosts": tuple(data["hosts"]),
            "confidence": Confidence(data["confidence"]),
            "evidence": tuple(Evidence(**each) for each in data["evidence"]),
        }
    )
