"""What a job's own records show of its costs, as ``opsuite simulate train --costs`` reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

from collectors.errors import DataError
from engine.supervision.job_spec import JobSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from collectors.query.source import Source
    from collectors.run import RunDirectory
    from engine.training.config import RunConfig

_STEPS = """
SELECT step, end_ns / 1e9 FROM spans WHERE run_id = ? AND name = 'step' AND rank = 0 ORDER BY end_ns
"""
_EVENTS = """
SELECT at_ns / 1e9, name, attributes FROM events
WHERE run_id = ? AND name IN ('job.phase', 'job.attempt', 'job.incident') ORDER BY at_ns
"""
_STRIKES = "SELECT at_ns / 1e9 FROM faults WHERE run_id = ? AND name = 'fault.begin' ORDER BY at_ns"
_CHOSEN = (
    "snapshot_every",
    "beat_s",
    "lost_after_s",
    "overdue_factor",
    "overdue_least_s",
    "check",
)
_LONGEST = 20.0  # times the usual: between these two steps the job did not train
_WARM_UP = 10  # steps that tell nothing yet

Event = tuple[float, str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """Seconds, of all that a run has shown."""

    plain: list[float]
    with_checkpoint: list[float]
    start: list[float]
    stop: list[float]
    report: list[float]


def measured_costs(store: Source, runs: Sequence[RunDirectory]) -> dict[str, Any]:
    """Of jobs of one configuration that recovered from faults: what there is nothing of is left
    out, and counts as assumed.

    Raises:
        DataError: they show no steps, or were not run alike.
    """
    configs = [JobSpec.read(run.path).config for run in runs]
    if any(each["resilience"] != configs[0]["resilience"] for each in configs):
        raise DataError(
            "their costs do not go together: [resilience] differs",
            where=", ".join(run.run_id for run in runs),
            remedy="name runs of one configuration",
        )
    from engine.training.config import RunConfig

    config = RunConfig.model_validate(configs[0])
    seen = [_seen(store, run.run_id, config) for run in runs]
    together = _Seen(**{name: _all(seen, name) for name in _Seen.__annotations__})
    if not together.plain:
        where = ", ".join(run.run_id for run in runs)
        raise DataError("no steps are recorded", where=where, remedy="name runs that trained")
    measured = _measured(together, config)
    chosen = {name: getattr(config.resilience, name) for name in _CHOSEN}
    source = f"measured: {', '.join(run.run_id for run in runs)}"
    return {
        "name": config.name,
        **measured,
        **chosen,
        "config": {"accused_most": config.resilience.accused_most},
        "sources": {
            **dict.fromkeys(measured, source),
            **dict.fromkeys(chosen, "given: as the runs were configured"),
        },
    }


def _measured(seen: _Seen, config: RunConfig) -> dict[str, Any]:
    step_s = fmean(seen.plain)
    values: dict[str, Any] = {"step_s": step_s}
    if config.checkpoint.every:
        values["checkpoint_every_s"] = config.checkpoint.every * step_s
    if seen.with_checkpoint:
        values["checkpoint_block_s"] = max(0.0, fmean(seen.with_checkpoint) - step_s)
    for name, spans in (("start_s", seen.start), ("stop_s", seen.stop), ("report_s", seen.report)):
        if spans:
            values[name] = [min(spans), max(spans)]
    return values


def _seen(store: Source, run_id: str, config: RunConfig) -> _Seen:
    steps = [(int(n), float(at)) for n, at in store.rows(_STEPS, [run_id])]
    events = [
        (float(at), str(name), json.loads(facts or "{}"))
        for at, name, facts in store.rows(_EVENTS, [run_id])
    ]
    strikes = [float(at) for (at,) in store.rows(_STRIKES, [run_id])]
    by_kind = _steps(steps, config)
    return _Seen(
        plain=by_kind[0],
        with_checkpoint=by_kind[1],
        start=_between(events[_first_recovery(events) :], "starting", "running"),
        stop=_between(events, "stopping", "gathering"),
        report=list(_reports(strikes, events)),
    )


def _steps(steps: Sequence[tuple[int, float]], config: RunConfig) -> tuple[list[float], ...]:
    """Seconds from the end of one step to that of the next: plain ones; those with a checkpoint.

    Copies in memory are made beside the steps, and slow some of them: that is in the plain ones.
    """
    lengths = [
        (step, at - before)
        for (last, before), (step, at) in pairwise(steps)
        if step == last + 1 and step > steps[0][0] + _WARM_UP
    ]
    usual = sorted(seconds for _, seconds in lengths)[len(lengths) // 2] if lengths else 0.0
    kinds: tuple[list[float], ...] = ([], [])
    every = config.checkpoint.every
    for step, seconds in lengths:
        if seconds <= _LONGEST * usual:  # a checkpoint is made after the span of its step
            kinds[bool(every) and (step - 1) % every == 0].append(seconds)
    return kinds


def _first_recovery(events: Sequence[Event]) -> int:
    """Where the second attempt begins: the first starts cold."""
    attempts = [index for index, (_, name, _) in enumerate(events) if name == "job.attempt"]
    return attempts[1] if len(attempts) > 1 else len(events)


def _between(events: Sequence[Event], first: str, last: str) -> list[float]:
    """Seconds from each beginning of a phase to that of another, which follows it."""
    phases = [(at, facts["phase"]) for at, name, facts in events if name == "job.phase"]
    return [
        later - at
        for (at, phase), (later, following) in pairwise(phases)
        if (phase, following) == (first, last)
    ]


def _reports(strikes: Sequence[float], events: Sequence[Event]) -> Iterable[float]:
    """Seconds from each fault that was injected to the incident that made the job start again."""
    incidents = [at for at, name, facts in events if name == "job.incident" and facts["recover"]]
    for strike, following in zip(strikes, [*strikes[1:], float("inf")], strict=False):
        seen = next((at for at in incidents if strike <= at < following), None)
        if seen is not None:
            yield seen - strike


def _all(seen: Iterable[_Seen], name: str) -> list[float]:
    return [seconds for each in seen for seconds in getattr(each, name)]
