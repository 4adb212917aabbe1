"""What Prometheus is told of a run: figures of its last minute, by SQL over the views.

Names follow Prometheus's conventions: base units, in the name; counters end in ``_total``. A
figure that is not known is left out, never 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collectors.exporters.metric_names import metric_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from collectors.exporters.families import Families
    from collectors.query.source import Source

WINDOW_S = 60
_WINDOW_NS = WINDOW_S * 10**9
_MOST_STEPS = 200  # of a window: steps of a large run cost time
_LAST = "SELECT run_id FROM raw.run ORDER BY started_ns DESC, run_id DESC LIMIT 1"
_RUN = """
    SELECT r.run_id, r.name, r.kind, r.status, r.started_ns,
           (SELECT sum(p.dropped)::BIGINT FROM raw.process AS p WHERE p.run_id = r.run_id)
    FROM raw.run AS r WHERE r.run_id = run_named(?)
"""
_DONE = """
    SELECT count(DISTINCT step) FROM raw.span AS t
    WHERE t.run_id = ? AND t.name = 'step' AND t.step >= 0
"""
_STEPS = """
    SELECT greatest(min(step) FILTER (start_ns > last - ?), max(step) - ?), max(step)
    FROM (SELECT t.step, t.start_ns, max(t.end_ns) OVER () AS last FROM raw.span AS t
          WHERE t.run_id = ? AND t.name = 'step' AND t.step >= 0)
"""
_RANKS = """
    SELECT rank, host, avg(duration_s), avg(own_s), avg(blocked_s) FROM steps
    WHERE run_id = ? AND step BETWEEN ? AND ? AND rank IS NOT NULL
    GROUP BY rank, host ORDER BY rank
"""
_LEARNED = """
    SELECT sum(tokens) / nullif((max(end_ns) - min(start_ns)) / 1e9, 0),
           arg_max(loss, step) FILTER (loss IS NOT NULL)
    FROM (SELECT step, max(tokens) AS tokens, arg_min(loss, rank) AS loss,
                 min(start_ns) AS start_ns, max(end_ns) AS end_ns
          FROM steps WHERE run_id = ? AND step BETWEEN ? AND ? GROUP BY step)
"""
_SAMPLES = """
    SELECT name, host, coalesce(rank::VARCHAR, ''), arg_max(value, at_ns) FROM samples
    WHERE run_id = ? AND contains(name, '.') AND NOT starts_with(name, 'server.')
      AND NOT starts_with(name, 'opsuite.') AND at_ns > ?
    GROUP BY name, host, rank ORDER BY name, host, rank
"""
_SERVING = """
    WITH lately AS (
        SELECT *, max(start_ns) OVER () AS last_ns FROM serving WHERE run_id = ?
    )
    SELECT source, coalesce(model, ''), arg_max(running, start_ns), arg_max(waiting, start_ns),
           arg_max(kv_usage, start_ns),
           sum(prompt_tokens_per_s * duration_s) / sum(duration_s),
           sum(generation_tokens_per_s * duration_s) / sum(duration_s),
           sum(finished_per_s * duration_s) / sum(duration_s), max(last_ns)
    FROM lately WHERE start_ns > last_ns - ? GROUP BY source, model ORDER BY ALL
"""
_LATENCY = "SELECT measure, p50, p90, p99 FROM ttft(?, since_s := ?)"
_FINDINGS = "SELECT kind, count(*) FROM findings WHERE run_id = ? GROUP BY kind ORDER BY kind"

_PER_RANK = (
    ("opsuite_step_duration_seconds", "Mean time of a step, of the last minute."),
    ("opsuite_step_own_seconds", "Of it, outside of collectives."),
    ("opsuite_step_blocked_seconds", "Of it, waiting for other ranks."),
)
_PER_MODEL = (
    ("opsuite_serving_running_requests", "Requests that are being computed."),
    ("opsuite_serving_waiting_requests", "Requests that wait."),
    ("opsuite_serving_kv_usage_ratio", "Share of the KV cache that is in use."),
    ("opsuite_serving_prompt_tokens_per_second", "Prompt tokens, of the last minute."),
    ("opsuite_serving_generation_tokens_per_second", "Generated tokens, of the last minute."),
    ("opsuite_serving_finished_requests_per_second", "Requests ended, of the last minute."),
)
_LATENCIES = {
    "ttft_s": ("opsuite_serving_ttft_seconds", "Time to the first token, of the last minute."),
    "tpot_s": ("opsuite_serving_tpot_seconds", "Time per further token, of the last minute."),
    "itl_s": ("opsuite_serving_itl_seconds", "Time between two tokens, of the last minute."),
    "latency_s": ("opsuite_serving_latency_seconds", "Time of whole requests."),
}


def tell_run(source: Source, reference: str, families: Families) -> None:
    """Add the figures of a run (its id, a beginning of it, or "last": of the newest, if any).

    Raises:
        OpsuiteError: there is no such run, or the store cannot be asked.
    """
    if reference == "last":
        if not (newest := source.rows(_LAST)):
            return
        reference = newest[0][0]
    [(run_id, name, kind, status, started_ns, dropped)] = source.rows(_RUN, [reference])
    about = {"run": run_id, "name": name, "kind": kind, "status": status}
    families.info("opsuite_run", "The run that is told of.", about)
    lost = "Records that its processes had no disk space for."
    families.counter("opsuite_records_dropped", lost, {"run": run_id}, dropped)
    if kind == "training":
        [(steps,)] = source.rows(_DONE, [run_id])
        families.counter("opsuite_steps", "Steps that were done.", {"run": run_id}, steps)
        _tell_steps(source, run_id, families)
    else:
        _tell_serving(source, run_id, started_ns, families)
    _tell_samples(source, run_id, families)
    for found, count in source.rows(_FINDINGS, [run_id]):
        labels = {"run": run_id, "finding": str(found)}
        families.gauge("opsuite_findings", "What diagnoses found.", labels, count)


def _tell_steps(source: Source, run_id: str, families: Families) -> None:
    [(first, last)] = source.rows(_STEPS, [_WINDOW_NS, _MOST_STEPS, run_id])
    if last is None:
        return
    families.gauge("opsuite_last_step", "The latest step.", {"run": run_id}, last)
    for rank, host, *figures in source.rows(_RANKS, [run_id, first, last]):
        labels = {"run": run_id, "rank": str(rank), "host": host}
        _tell_each(_PER_RANK, figures, labels, families)
    [(tokens_per_s, loss)] = source.rows(_LEARNED, [run_id, first, last])
    about = "Tokens that the run learns from, of the last minute."
    families.gauge("opsuite_tokens_per_second", about, {"run": run_id}, tokens_per_s)
    families.gauge("opsuite_loss", "Of the last step that tells it.", {"run": run_id}, loss)


def _tell_serving(source: Source, run_id: str, started_ns: int, families: Families) -> None:
    rows = source.rows(_SERVING, [run_id, _WINDOW_NS])
    for whose, model, *figures, _ in rows:
        labels = {"run": run_id, "source": whose, "model": model}
        _tell_each(_PER_MODEL, figures, labels, families)
    if not rows:
        return
    since_s = max(0.0, (rows[0][-1] - started_ns) / 1e9 - WINDOW_S)
    for measure, *quantiles in source.rows(_LATENCY, [run_id, since_s]):
        if measure in _LATENCIES:
            name, about = _LATENCIES[measure]
            for share, value in zip(("0.5", "0.9", "0.99"), quantiles, strict=True):
                families.gauge(name, about, {"run": run_id, "quantile": share}, value)


def _tell_samples(source: Source, run_id: str, families: Families) -> None:
    for name, host, rank, value in _latest_samples(source, run_id):
        metric, device, factor = metric_of(name)
        labels = {"run": run_id, "host": host, "rank": rank, "device": device}
        about = f"The latest sample {name.partition('.')[0]}.*"
        families.gauge(metric, about, labels, value * factor)


def _latest_samples(source: Source, run_id: str) -> Iterator[tuple[str, str, str, float]]:
    [(last_ns,)] = source.rows(
        "SELECT max(t.at_ns) FROM raw.sample AS t WHERE t.run_id = ?", [run_id]
    )
    if last_ns is not None:
        yield from source.rows(_SAMPLES, [run_id, last_ns - _WINDOW_NS])


def _tell_each(
    told: Sequence[tuple[str, str]],
    figures: Sequence[Any],
    labels: Mapping[str, str],
    families: Families,
) -> None:
    for (name, about), value in zip(told, figures, strict=True):
        families.gauge(name, about, labels, value)
