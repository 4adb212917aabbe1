"""What ``opsuite simulate train`` prints: one document for programs, tables for people."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.simulation.train.costs import Costs
    from engine.simulation.train.estimate import Estimate
    from engine.simulation.train.failures import Load
    from engine.simulation.train.scale import Scale
    from engine.simulation.train.study import Change, Study

_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A practice, and what would help it."""

    study: Study
    what_if: Sequence[Change]
    take_over: Sequence[Change]


def document(
    scale: Scale, load: Load, seeds: Sequence[int], practices: Sequence[Examined]
) -> dict[str, Any]:
    """All of it as data: shares of the wall clock, seconds."""
    return {
        "job": {
            "gpus": scale.gpus,
            "hosts": scale.hosts,
            "duration_s": scale.duration_s,
            "simulated_hosts": scale.simulated_hosts,
            "seeds": list(seeds),
        },
        "failures": {
            "source": load.interruptions.source,
            "rhythm": load.rhythm,
            "every_s": load.every_s,
            "components": [
                {**asdict(each), "shows": str(each.shows)} for each in load.interruptions.components
            ],
        },
        "practices": [_practice(each) for each in practices],
    }


def _practice(examined: Examined) -> dict[str, Any]:
    study = examined.study
    return {
        "name": study.costs.name,
        "effective": _estimate(study.effective),
        "spent": _spent(study),
        "failures": study.average(lambda each: each.failures),
        "attempts": study.average(lambda each: each.attempts),
        "given_up": study.average(lambda each: each.given_up),
        "replaced": study.average(lambda each: each.replaced),
        "recovery_s": _recovery_s(study),
        "causes": _causes(study),
        "components": _components(study),
        "what_if": [_change(change) for change in examined.what_if],
        "take_over": [_change(change) for change in examined.take_over],
        "costs": _costs(study.costs),
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "interval": estimate.interval}


def _change(change: Change) -> dict[str, Any]:
    return {
        "name": change.name,
        "how": change.how,
        "effective": _estimate(change.effective),
        "gain": _estimate(change.gain),
    }


def _spent(study: Study) -> dict[str, float]:
    kinds = study.outcomes[0].spent_s
    seeds = len(study.outcomes)
    return {str(kind): sum(each.share(kind) for each in study.outcomes) / seeds for kind in kinds}


def _recovery_s(study: Study) -> float | None:
    failures = sum(each.failures for each in study.outcomes)
    lost = sum(loss.seconds for each in study.outcomes for loss in each.losses.values())
    return lost / failures if failures else None


def _causes(study: Study) -> dict[str, float]:
    """Incidents by what the driver took them for, the most frequent first."""
    found: Counter[str] = Counter()
    for each in study.outcomes:
        found.update(each.incidents)
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return {name: count / len(study.outcomes) for name, count in ordered}


def _components(study: Study) -> list[dict[str, Any]]:
    """What failed and what it cost, the dearest first."""
    names = {name for each in study.outcomes for name in each.losses}
    found = []
    for name in names:
        losses = [(each.losses.get(name), each.wall_s) for each in study.outcomes]
        count = sum(loss.count for loss, _ in losses if loss) / len(losses)
        share = sum(loss.seconds / wall for loss, wall in losses if loss) / len(losses)
        found.append({"component": name, "failures": count, "lost": share})
    return sorted(found, key=lambda each: (-each["lost"], each["component"]))


def _costs(costs: Costs) -> dict[str, Any]:
    from engine.simulation.train.costs import COSTS

    values = {
        name: {"value": getattr(costs, name), "source": costs.sources.get(name, "assumed")}
        for name in COSTS
    }
    return {**values, "config": dict(costs.config)}


# -- for people ---


def tables(
    scale: Scale, load: Load, seeds: Sequence[int], practices: Sequence[Examined], *, sources: bool
) -> str:
    """The same for people."""
    parts = [_head(scale, load, seeds), _summary(practices), _where(practices), _what(practices)]
    for each in practices:
        parts += _helps(each)
    parts += [_assumptions(each.study.costs, all_of_them=sources) for each in practices]
    return "\n".join(parts)


def _head(scale: Scale, load: Load, seeds: Sequence[int]) -> str:
    length = f"{scale.duration_s / _DAY_S:g} days"
    if scale.duration_s < _DAY_S:
        length = f"{scale.duration_s / 60:g} minutes"
    return (
        f"{scale.gpus:,} GPUs on {scale.hosts:,} hosts for {length}, {len(seeds)} seed(s);"
        f" a failure every {load.every_s:,.0f} s ({load.rhythm})\n"
        f"failures: {load.interruptions.source}\n"
    )


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}%"


def _between(estimate: Estimate) -> str | None:
    if estimate.interval is None:
        return None
    return " - ".join(f"{100 * bound:.2f}" for bound in estimate.interval)


def _summary(practices: Sequence[Examined]) -> str:
    from tui.table import render_table

    columns = ["practice", "effective", "95 % interval", "failures", "until caught up, s"]
    rows = []
    for study in (each.study for each in practices):
        recovery_s = _recovery_s(study)
        rows.append(
            (
                study.costs.name,
                _percent(study.effective.value),
                _between(study.effective),
                round(study.average(lambda each: each.failures), 1),
                None if recovery_s is None else round(recovery_s),
                round(study.average(lambda each: each.replaced), 1),
                round(study.average(lambda each: each.given_up), 1),
            )
        )
    return render_table([*columns, "hosts replaced", "given up to a person"], rows)


def _where(practices: Sequence[Examined]) -> str:
    from tui.table import render_table

    spent = {each.study.costs.name: _spent(each.study) for each in practices}
    kinds = next(iter(spent.values()))
    rows = [(kind, *(_percent(shares[kind]) for shares in spent.values())) for kind in kinds]
    return render_table(["where the time went", *spent], rows)


def _what(practices: Sequence[Examined]) -> str:
    from tui.table import render_table

    found = [{each["component"]: each for each in _components(p.study)} for p in practices]
    names = dict.fromkeys(name for each in found for name in each)
    rows = []
    for name in names:
        cells = [each.get(name, {"failures": 0.0, "lost": 0.0}) for each in found]
        lost = (_percent(cell["lost"], 3) for cell in cells)
        rows.append((name, round(cells[0]["failures"], 1), *lost))
    columns = [f"lost, {each.study.costs.name}" for each in practices]
    return render_table(["what failed", "failures", *columns], rows)


def _helps(examined: Examined) -> list[str]:
    from tui.table import render_table

    changes = [*examined.what_if, *examined.take_over]
    if not changes:
        return []
    rows = [
        (
            change.name,
            change.how,
            _percent(change.effective.value),
            f"{100 * change.gain.value:+.3f}",
            _between(change.gain),
        )
        for change in sorted(changes, key=lambda change: -change.gain.value)
    ]
    head = f"what would help {examined.study.costs.name}"
    return [render_table([head, "how", "effective", "gain, points", "95 % interval"], rows)]


def _assumptions(costs: Costs, *, all_of_them: bool) -> str:
    from engine.simulation.train.costs import COSTS
    from tui.table import render_table

    names = COSTS if all_of_them else costs.assumed
    rows = [
        (name, _value(getattr(costs, name)), costs.sources.get(name, "assumed")) for name in names
    ]
    what = "put into" if all_of_them else "assumed of"
    return render_table([f"{what} {costs.name}", "value", "source"], rows)


def _value(value: Any) -> str:  # noqa: ANN401 - a number, a range, a word, or nothing
    if isinstance(value, tuple):
        return f"{value[0]:g}" if value[0] == value[1] else f"{value[0]:g}-{value[1]:g}"
    return "never" if value is None else str(value)
