"""What ``opsuite simulate serve`` prints: one document for programs, tables for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.simulation.serve.metrics import Metrics, Spread, Times
    from engine.simulation.serve.request import Workload
    from engine.simulation.serve.set_up import SetUp

_GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Policies on one workload.

    Attributes:
        capacity: requests a second of FCFS when all arrive at once; None where not asked for.
    """

    set_up: SetUp
    workload: Workload
    seed: int
    capacity: float | None
    metrics: Sequence[Metrics]

    @property
    def load(self) -> float | None:
        """The rate over the capacity."""
        rate = self.workload.rate
        return rate / self.capacity if rate and self.capacity else None


def document(compared: Compared) -> dict[str, Any]:
    """All of it as data: seconds, bytes, tokens."""
    return {
        "set_up": _set_up(compared.set_up),
        "workload": workload_document(compared.workload, compared.seed),
        "capacity_per_s": compared.capacity,
        "load": compared.load,
        "policies": [asdict(each) for each in compared.metrics],
    }


def workload_document(workload: Workload, seed: int) -> dict[str, Any]:
    """Of at least one request."""
    count = len(workload.requests)
    return {
        "name": workload.name,
        "seed": seed,
        "requests": count,
        "dropped": workload.dropped,
        "rate_per_s": workload.rate,
        "span_s": workload.span_s,
        "prompt_tokens": sum(each.prompt_tokens for each in workload.requests) / count,
        "output_tokens": sum(each.output_tokens for each in workload.requests) / count,
    }


def _set_up(set_up: SetUp) -> dict[str, Any]:
    return {
        "model": set_up.costs.model,
        "tp": set_up.costs.tp,
        "costs": set_up.costs.source,
        "max_batch": set_up.max_batch,
        "kv_tokens": set_up.kv_tokens,
        "kv_bytes_per_token": set_up.kv_bytes_per_token,
        "swap_bytes": set_up.swap_bytes,
        "link_bytes_per_s": set_up.link_bytes_per_s,
        "make_room": None if set_up.make_room is None else str(set_up.make_room),
        "drain": set_up.drain,
    }


# -- for people ---


def tables(compared: Compared) -> str:
    """The same for people."""
    found = compared.metrics
    return "\n".join([_head(compared), _all(found), _split(found), _work(found), _notes(found)])


def _head(compared: Compared) -> str:
    set_up, workload = compared.set_up, compared.workload
    rate = "all at once" if workload.rate is None else f"{workload.rate:.4g} requests/s"
    load = "" if compared.load is None else f", {compared.load:.3g} of FCFS's capacity"
    return (
        f"{set_up.costs.model}, tp {set_up.costs.tp}; costs: {set_up.costs.source}\n"
        f"batch cap {set_up.max_batch}, KV {set_up.kv_tokens:,} tokens, host"
        f" {set_up.swap_bytes / _GB:g} GB, link {set_up.link_bytes_per_s / _GB:g} GB/s\n"
        f"{workload.name}: {len(workload.requests):,} requests"
        f" ({workload.dropped:,} too long and left out), {rate}{load}, seed {compared.seed}\n"
    )


def _all(found: Sequence[Metrics]) -> str:
    from tui.table import render_table

    columns = ["policy", "JCT, s", "P50", "P95", "P99", "JCT a token, s", "TTFT, s", "P99"]
    rows = [
        (
            each.policy,
            *_four(each.all.jct),
            _mean(each.all.jct_per_token),
            _mean(each.all.ttft),
            None if each.all.ttft is None else figure(each.all.ttft.p99),
            _mean(each.all.tpot),
            each.unfinished,
        )
        for each in found
    ]
    return render_table([*columns, "TPOT, s", "unfinished"], rows)


def _split(found: Sequence[Metrics]) -> str:
    from tui.table import render_table

    columns = [f"{which}, {what}" for which in ("short", "long") for what in ("mean", "P95", "P99")]
    rows = [(each.policy, *_three(each.short), *_three(each.long)) for each in found]
    return render_table(["JCT by prompt, s", *columns], rows)


def _work(found: Sequence[Metrics]) -> str:
    from tui.table import render_table

    columns = ["policy", "requests/s", "output tokens/s", "busy", "waited for swaps"]
    rows = [
        (
            each.policy,
            figure(each.requests_per_s),
            figure(each.output_tokens_per_s),
            f"{each.busy:.1%}",
            f"{each.waited:.1%}",
            each.preemptions,
            figure(each.swapped_bytes / _GB),
            each.recomputed_tokens,
        )
        for each in found
    ]
    return render_table([*columns, "preemptions", "swapped, GB", "recomputed tokens"], rows)


def _notes(found: Sequence[Metrics]) -> str:
    notes = [
        "means unless said; JCT a token of outputs of 8 tokens and more; long: tenth of prompts"
    ]
    if any(each.unfinished for each in found):
        notes.append("unfinished requests count as if they had ended when the simulation did")
    return "\n".join(notes) + "\n"


def _four(spread: Spread | None) -> tuple[float | None, ...]:
    if spread is None:
        return (None,) * 4
    return tuple(map(figure, (spread.mean, spread.p50, spread.p95, spread.p99)))


def _three(times: Times) -> tuple[float | None, ...]:
    mean, _, p95, p99 = _four(times.jct)
    return mean, p95, p99


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else figure(spread.mean)


def figure(value: float) -> float:
    """As tables show it, with four significant digits."""
    return float(f"{value:.4g}")
