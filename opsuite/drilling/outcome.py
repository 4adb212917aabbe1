"""What came of a drill, from the job's own records: when each fault struck, was seen, was over."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from collectors.daemon.access import open_store
from engine.supervision.driver_process import RESULT
from engine.supervision.job_spec import DRIVER

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.query.source import Source
    from opsuite.drilling.drill import Drilled

_EVENTS = """
SELECT at_ns / 1e9, name, attributes FROM events
WHERE run_id = ? AND (name LIKE 'job.%' OR name LIKE 'checkpoint.%') ORDER BY at_ns
"""
_STRIKES = "SELECT at_ns / 1e9, name, attributes FROM faults WHERE run_id = ? ORDER BY at_ns"
_STEPS = """
SELECT end_ns / 1e9, step FROM spans WHERE run_id = ? AND name = 'step' AND rank = 0 ORDER BY end_ns
"""
_LOSS = """
SELECT value FROM samples WHERE run_id = ? AND name = 'loss' ORDER BY step DESC, at_ns DESC LIMIT 1
"""


@dataclass(frozen=True, kw_only=True)
class FaultOutcome:
    """Of one fault.

    Attributes:
        struck_s: when, by the wall clock; None: it was not.
        causes: of the incidents from then on, until the next fault.
        accused: ranks and hosts that these name.
        detected_after_s, productive_after_s: from the strike to the first incident that made the
            job start again, and to the end of the first step that was never done before.
    """

    fault: str
    skipped: str = ""
    struck_s: float | None = None
    causes: tuple[str, ...] = ()
    accused: tuple[str, ...] = ()
    detected_after_s: float | None = None
    productive_after_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of a drill.

    Attributes:
        weights: SHA-256 of the final model's weights; "" where there are none.
        gap: by how much of the wall clock the ledger misses it.
    """

    run_id: str
    status: str
    reason: str
    attempts: int
    loss: float | None
    weights: str
    wall_s: float
    effective: float
    gap: float
    spent_s: dict[str, float] = field(default_factory=dict)
    faults: tuple[FaultOutcome, ...] = ()
    events: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def read_outcome(home: Path, drilled: Drilled) -> Outcome:
    """From the run's records; everything that could be recorded has been."""
    run = drilled.result.run
    told = json.loads((run.path / DRIVER / RESULT).read_text(encoding="utf-8"))
    with open_store(home) as store:
        events = _events(store, _EVENTS, run.run_id)
        strikes = _events(store, _STRIKES, run.run_id)
        steps = [(float(s), int(n)) for s, n in store.rows(_STEPS, [run.run_id])]
        losses = store.rows(_LOSS, [run.run_id])
    return Outcome(
        run_id=run.run_id,
        status=drilled.result.status,
        reason=told["reason"],
        attempts=told["attempts"],
        loss=float(losses[0][0]) if losses else None,
        weights=weights_of(run.path / "model"),
        wall_s=told["wall_s"],
        effective=told["effective"],
        gap=told["gap"],
        spent_s=told["spent_s"],
        faults=tuple(_faults(strikes, events, steps, drilled.skipped)),
        events=tuple(dict.fromkeys(name for _, name, _ in events)),
    )


def weights_of(model: Path) -> str:
    """SHA-256 of the weights in a model's directory."""
    digest = hashlib.sha256()
    files = sorted(model.glob("*.safetensors"))
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest() if files else ""


Event = tuple[float, str, dict[str, Any]]


def _events(store: Source, sql: str, run_id: str) -> list[Event]:
    return [
        (float(s), str(name), json.loads(a or "{}")) for s, name, a in store.rows(sql, [run_id])
    ]


def _faults(
    strikes: list[Event],
    events: list[Event],
    steps: list[tuple[float, int]],
    skipped: dict[str, str],
) -> list[FaultOutcome]:
    found = []
    for at, name, facts in strikes:
        kind = str(facts.get("class", ""))
        if name == "fault.skipped":
            found.append(FaultOutcome(fault=kind, skipped=str(facts.get("reason", "skipped"))))
        elif name == "fault.begin":
            found.append(_struck(kind, at, events, steps))
    told = {each.fault for each in found}
    return found + [
        FaultOutcome(fault=kind, skipped=why) for kind, why in skipped.items() if kind not in told
    ]


def _struck(
    kind: str, at: float, events: list[Event], steps: list[tuple[float, int]]
) -> FaultOutcome:
    later = [(s, facts) for s, name, facts in events if name == "job.incident" and s >= at]
    detected = next((s for s, facts in later if facts["recover"]), None)
    best = max((step for s, step in steps if s <= (detected or at)), default=0)
    productive = next((s for s, step in steps if s > (detected or at) and step > best), None)
    accused = [
        *(f"rank {rank}" for _, facts in later for rank in facts["ranks"]),
        *(str(host) for _, facts in later for host in facts["hosts"]),
    ]
    return FaultOutcome(
        fault=kind,
        struck_s=at,
        causes=tuple(dict.fromkeys(str(facts["cause"]) for _, facts in later)),
        accused=tuple(dict.fromkeys(accused)),
        detected_after_s=None if detected is None else detected - at,
        productive_after_s=None if productive is None else productive - at,
    )
