"""What ``opsuite simulate serve`` prints of fleets: a document for programs, a table for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from opsuite.simulated_serving import figure, workload_document

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.simulation.fleet.set_up import FleetSetUp
    from engine.simulation.fleet.slo import Slowdown
    from engine.simulation.serve.metrics import Metrics, Spread
    from engine.simulation.serve.request import Workload


@dataclass(frozen=True, kw_only=True)
class Served:
    """One policy.

    Attributes:
        variant: that was the best; "" where there is but one.
    """

    variant: str
    metrics: Metrics
    slowdown: Slowdown


@dataclass(frozen=True, kw_only=True)
class ComparedFleets:
    """Policies on one workload.

    Attributes:
        left_out: policies that cannot serve it, and why.
    """

    set_up: FleetSetUp
    workload: Workload
    seed: int
    served: Sequence[Served]
    left_out: Mapping[str, str] = field(default_factory=dict)


def document(compared: ComparedFleets) -> dict[str, Any]:
    """All of it as data: seconds, tokens."""
    set_up = compared.set_up
    return {
        "set_up": {
            "model": set_up.model,
            "costs": set_up.source,
            "instances": set_up.instances,
            "tp": set_up.tp,
            "measured_dop": sorted(set_up.base.measured),
            "kv_tokens": set_up.kv_tokens,
            "max_batch": None if set_up.uncapped else set_up.max_batch,
            "kv_bytes_per_token": set_up.base.kv_bytes_per_token,
            "link_bytes_per_s": set_up.base.link_bytes_per_s,
        },
        "workload": workload_document(compared.workload, compared.seed),
        "policies": [
            {**asdict(each.metrics), "variant": each.variant, **asdict(each.slowdown)}
            for each in compared.served
        ],
        "left_out": dict(compared.left_out),
    }


def tables(compared: ComparedFleets) -> str:
    """The same for people."""
    parts = [_head(compared), _served(compared.served)]
    parts += [f"left out: {why}" for why in compared.left_out.values()]
    return "\n".join([*parts, _NOTES])


_NOTES = (
    "x: times the unloaded latency, which is that of each request alone on all devices; normalised:"
    " mean of latency over\ntokens, over the same mean unloaded; keeps up: all are done within a"
    " tenth of the span of arrivals after the last\n"
)


def _head(compared: ComparedFleets) -> str:
    set_up, workload = compared.set_up, compared.workload
    rate = "all at once" if workload.rate is None else f"{workload.rate:.4g} requests/s"
    cap = "no batch cap" if set_up.uncapped else f"batch cap {set_up.max_batch}"
    return (
        f"{set_up.model}, {set_up.instances} instances of tp {set_up.tp}; costs: {set_up.source}\n"
        f"of each instance: KV {set_up.kv_tokens:,} tokens, {cap}\n"
        f"{workload.name}: {len(workload.requests):,} requests"
        f" ({workload.dropped:,} too long and left out), {rate}, seed {compared.seed}\n"
    )


def _served(served: Sequence[Served]) -> str:
    from tui.table import render_table

    columns = ["policy", "variant", "normalised, x", "P90 slowdown, x", "keeps up", "JCT, s", "P99"]
    columns += ["TTFT, s", "P99", "TPOT, s", "busy", "requests/s", "recomputed tokens"]
    return render_table(columns, [_one(each) for each in served])


def _one(each: Served) -> tuple[Any, ...]:
    found = each.metrics
    return (
        found.policy,
        each.variant or "-",
        figure(each.slowdown.normalised_latency),
        figure(each.slowdown.slowdown_p90),
        "yes" if each.slowdown.keeps_up else "no",
        *_mean_p99(found.all.jct),
        *_mean_p99(found.all.ttft),
        _mean_p99(found.all.tpot)[0],
        f"{found.busy:.1%}",
        figure(found.requests_per_s),
        found.recomputed_tokens,
    )


def _mean_p99(spread: Spread | None) -> tuple[float | None, float | None]:
    return (None, None) if spread is None else (figure(spread.mean), figure(spread.p99))
