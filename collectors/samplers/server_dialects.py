"""What servers call the same things: vLLM, SGLang, TGI, of all versions in use, and our own.

Names stand without their prefix (``vllm:`` and, in newer exporters and under Ray, ``vllm_`` and
``ray_vllm_``) and without a counter's ``_total``; of several the first that is there counts.

Sources: vLLM's ``vllm/v1/metrics/loggers.py`` and its older ``vllm/engine/metrics.py``; SGLang's
``srt/metrics/collector.py``; TGI's ``router`` (``metrics::histogram!`` and its kin).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Names = Mapping[str, tuple[str, ...]]

STARTED = "process_start_time_seconds"
FRACTIONS = frozenset({"kv_usage", "cache_hit_rate"})
"""Gauges that engines have each for itself: their mean is told, not their sum."""
REASON_LABELS = ("finished_reason", "finish_reason")
CANCELLED = frozenset({"abort", "aborted", "cancelled"})
FAILED = frozenset({"error"})

_PREFIX = re.compile(r"(?:ray_)?(vllm|sglang|tgi|opsuite)[:_]")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One kind of server.

    Attributes:
        source: what it is called in the views.
        gauges: what is so now, by our name; fractions are of one.
        counters: what has been so far; ``finished`` may be split by a reason label.
        latencies: histograms in seconds. ``tpot_s`` counts requests (their mean time per further
            token), ``itl_s`` single tokens.
        remedy: how its metrics are switched on.
    """

    source: str
    gauges: Names
    counters: Names
    latencies: Names
    remedy: str
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        plain = {
            name for group in (self.gauges, self.counters) for ns in group.values() for name in ns
        }
        parts = {
            name + part
            for names in self.latencies.values()
            for name in names
            for part in ("_bucket", "_sum", "_count")
        }
        object.__setattr__(self, "names", frozenset(plain | parts))


VLLM = Dialect(
    source="vllm",
    gauges={
        "running": ("num_requests_running",),
        "waiting": ("num_requests_waiting",),
        "kv_usage": ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
    },
    counters={
        "prompt_tokens": ("prompt_tokens",),
        "generation_tokens": ("generation_tokens",),
        "finished": ("request_success",),
        "preemptions": ("num_preemptions",),
    },
    latencies={
        "ttft_s": ("time_to_first_token_seconds",),
        "tpot_s": ("request_time_per_output_token_seconds",),
        "itl_s": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
        "latency_s": ("e2e_request_latency_seconds",),
        "queue_s": ("request_queue_time_seconds",),
        "prefill_s": ("request_prefill_time_seconds",),
        "decode_s": ("request_decode_time_seconds",),
    },
    remedy="vLLM: start it without --disable-log-stats",
)

SGLANG = Dialect(
    source="sglang",
    gauges={
        "running": ("num_running_reqs",),
        "waiting": ("num_queue_reqs",),
        "kv_usage": ("token_usage",),
        "cache_hit_rate": ("cache_hit_rate",),
    },
    counters={
        "prompt_tokens": ("prompt_tokens",),
        "generation_tokens": ("generation_tokens",),
        "finished": ("num_requests", "e2e_request_latency_seconds_count"),
        "cancelled": ("num_aborted_requests",),
        "preemptions": ("num_retracted_requests",),
    },
    latencies={
        "ttft_s": ("time_to_first_token_seconds",),
        "itl_s": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
        "latency_s": ("e2e_request_latency_seconds",),
        "queue_s": ("queue_time_seconds",),
    },
    remedy="SGLang: start it with --enable-metrics",
)

TGI = Dialect(
    source="tgi",
    gauges={"running": ("batch_current_size",), "waiting": ("queue_size",)},
    counters={
        "prompt_tokens": ("request_input_length_sum",),
        "generation_tokens": ("request_generated_tokens_sum",),
        "finished": ("request_success",),
        "errors": ("request_failure",),
    },
    latencies={
        "tpot_s": ("request_mean_time_per_token_duration",),
        "latency_s": ("request_duration",),
        "queue_s": ("request_queue_duration",),
    },
    remedy="TGI: its router serves them at /metrics on its own port",
)

OPSUITE = replace(VLLM, source="opsuite", remedy="opsuite serve: always at /metrics")

DIALECTS = {dialect.source: dialect for dialect in (VLLM, SGLANG, TGI, OPSUITE)}


def split_name(name: str) -> tuple[str, str]:
    """Whose a metric is, and its name there: ("vllm", "prompt_tokens"); ("", name): of nobody."""
    found = _PREFIX.match(name)
    if found is None:
        return "", name
    return found[1], name[found.end() :].removesuffix("_total")


def is_wanted(name: str) -> bool:
    """Whether a metric means something to us."""
    source, rest = split_name(name)
    return rest in DIALECTS[source].names if source else name == STARTED


def recognise(sources: Iterable[str]) -> Dialect | None:
    """The dialect of a server by whose metrics it has most of; None where it has none known."""
    counted = [source for source in sources if source]
    return DIALECTS[max(counted, key=counted.count)] if counted else None
