"""Views of servers: our own, by the requests that they record, and scraped ones, by intervals.

A scraped server tells counters and histograms, not requests (:mod:`.samplers.server_watch` says
what is recorded of them), so its percentiles are estimates within bounds.
"""

from __future__ import annotations

from collectors.query.view import View

_GAUGES = ("running", "waiting", "kv_usage", "cache_hit_rate")
_COUNTS = (
    *("prompt_tokens", "generation_tokens", "finished", "errors", "cancelled", "preemptions"),
    "interval_s",
)

# Arrivals, starts, first tokens and ends of requests as changes of what a server has and does; a
# request's further tokens are spread evenly from its first token to its end. ``rate`` is how many
# tokens a second more there are from then on, ``tokens`` what the rest of that second has of them.
_CHANGE = """
    SELECT run_id, unnest([
               {'at_ns': arrived_ns, 'waiting': 1, 'running': 0, 'rate': 0::DOUBLE},
               {'at_ns': coalesce(scheduled_ns, ended_ns), 'waiting': -1,
                'running': (scheduled_ns IS NOT NULL)::INTEGER, 'rate': 0::DOUBLE},
               {'at_ns': first_ns, 'waiting': 0, 'running': 0, 'rate': coalesce(rate, 0)},
               {'at_ns': ended_ns, 'waiting': 0,
                'running': -((scheduled_ns IS NOT NULL)::INTEGER),
                'rate': CASE WHEN first_ns IS NOT NULL THEN coalesce(-rate, 0) ELSE 0 END}
           ], recursive := true)
    FROM request
"""

_OWN = f"""
    request AS (
        SELECT run_id, arrived_ns, arrived_ns + (queue_s * 1e9)::BIGINT AS scheduled_ns,
               arrived_ns + (ttft_s * 1e9)::BIGINT AS first_ns,
               arrived_ns + (latency_s * 1e9)::BIGINT AS ended_ns,
               (output_tokens - 1) / nullif(latency_s - ttft_s, 0) AS rate,
               ttft_s, tpot_s, prompt_tokens, output_tokens, reason
        FROM requests WHERE arrived_ns IS NOT NULL
    ), change AS ({_CHANGE}), changed AS (
        SELECT run_id, at_ns // 1000000000 AS second, sum(waiting) AS waiting,
               sum(running) AS running, sum(rate) AS rate,
               sum(rate * (1 - (at_ns % 1000000000) / 1e9)) AS tokens
        FROM change WHERE at_ns IS NOT NULL GROUP BY run_id, second
    ), begun AS (
        SELECT run_id, first_ns // 1000000000 AS second, sum(prompt_tokens) AS prompt_tokens,
               count(*) AS first_tokens, quantile_cont(ttft_s, [0.5, 0.99]) AS ttft
        FROM request WHERE first_ns IS NOT NULL GROUP BY run_id, second
    ), ended AS (
        SELECT run_id, ended_ns // 1000000000 AS second,
               count(*) FILTER (reason <> 'cancelled') AS finished,
               count(*) FILTER (reason = 'error') AS errors,
               quantile_cont(tpot_s, [0.5, 0.99]) AS tpot
        FROM request WHERE ended_ns IS NOT NULL GROUP BY run_id, second
    ), unended AS (
        SELECT u.run_id, s.end_ns // 1000000000 AS second, count(*) AS tokens
        FROM request AS u JOIN raw.aligned_span AS s USING (run_id)
        WHERE u.ended_ns IS NULL AND u.first_ns IS NOT NULL AND s.name IN ('decode', 'mixed')
          AND s.end_ns > u.first_ns
        GROUP BY u.run_id, second
    ), held AS (
        SELECT t.run_id, second, sum(total) / sum(count) AS kv_tokens
        FROM (FROM raw.rollup UNION ALL FROM raw.hot_rollup) AS t
        WHERE kind = 'sample' AND name = 'kv_tokens' GROUP BY t.run_id, second
    ), every_second AS (
        SELECT run_id, unnest(range(min(second), max(second) + 1)) AS second
        FROM (SELECT run_id, second FROM changed
              UNION ALL SELECT run_id, second FROM unended) GROUP BY run_id
    ), own AS (
        SELECT e.run_id, e.second,
               sum(coalesce(c.running, 0)) OVER before_and_now AS running,
               sum(coalesce(c.waiting, 0)) OVER before_and_now AS waiting,
               coalesce(b.prompt_tokens, 0) AS prompt_tokens,
               sum(coalesce(c.rate, 0)) OVER before_and_now - coalesce(c.rate, 0)
                   + coalesce(c.tokens, 0) + coalesce(b.first_tokens, 0)
                   + coalesce(u.tokens, 0) AS generation_tokens,
               coalesce(d.finished, 0) AS finished, coalesce(d.errors, 0) AS errors,
               b.ttft, d.tpot, h.kv_tokens
        FROM every_second AS e
        LEFT JOIN changed AS c USING (run_id, second) LEFT JOIN begun AS b USING (run_id, second)
        LEFT JOIN ended AS d USING (run_id, second) LEFT JOIN unended AS u USING (run_id, second)
        LEFT JOIN held AS h USING (run_id, second)
        WINDOW before_and_now AS (PARTITION BY e.run_id ORDER BY e.second)
    )
"""  # noqa: S608 - our own text


def _sampled(names: tuple[str, ...]) -> str:
    return ", ".join(f"max(value) FILTER (name = 'server.{name}') AS {name}" for name in names)


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"'server.{name}'" for name in names)


_BUCKETS = '{"measure": "VARCHAR", "low": ["DOUBLE"], "high": ["DOUBLE"], "counts": ["BIGINT"]}'


# The first bucket up to which a share of all lies: its place in the lists, 0 where there is none.
def _place(share: float) -> str:
    return f"list_position(list_transform(upto, lambda n: n >= {share} * upto[-1]), true)"


def _estimate(place: str, share: float) -> str:
    return (
        f"CASE WHEN high[{place}] IS NULL THEN low[{place}]"
        f" ELSE low[{place}] + (high[{place}] - low[{place}])"
        f" * ({share} * upto[-1] - upto[{place}] + counts[{place}]) / counts[{place}] END"
    )


_LATENCY = f"""
    counted AS (
        SELECT run_id, process, subject AS number,
               unnest(json_transform(document, '{_BUCKETS}'))
        FROM raw.aligned_event WHERE name = 'server.latency'
    ), summed AS (
        SELECT *, list_transform(range(1, len(counts) + 1), lambda i: list_sum(counts[1:i]))
                  AS upto
        FROM counted WHERE len(counts) > 0 AND measure IN ('ttft_s', 'tpot_s', 'itl_s')
    ), placed AS (
        SELECT *, {_place(0.5)} AS p50, {_place(0.99)} AS p99 FROM summed
    ), estimated AS (
        SELECT run_id, process, number, measure,
               [{_estimate("p50", 0.5)}, {_estimate("p99", 0.99)}] AS estimates,
               [low[p50], high[p50]] AS p50_within, [low[p99], high[p99]] AS p99_within
        FROM placed
    ), latency AS (
        SELECT run_id, process, number,
               any_value({{'estimates': estimates, 'p50': p50_within, 'p99': p99_within}})
                   FILTER (measure = 'ttft_s') AS ttft,
               coalesce(
                   any_value({{'estimates': estimates, 'p50': p50_within, 'p99': p99_within}})
                       FILTER (measure = 'tpot_s'),
                   any_value({{'estimates': estimates, 'p50': p50_within, 'p99': p99_within}})
                       FILTER (measure = 'itl_s')) AS tpot
        FROM estimated GROUP BY run_id, process, number
    )
"""  # noqa: S608 - our own text

_SEEN = """
    seen AS (
        SELECT process, any_value(document ->> 'source') AS source,
               any_value(document ->> 'model') AS model
        FROM raw.aligned_event WHERE name = 'server.seen' GROUP BY process
    )
"""

SERVING = View(
    name="serving",
    about="what servers did, one row a second (scraped ones: a model and interval between two "
    "readings, the first row without rates); source: opsuite, or whose metrics were scraped; "
    "running, waiting: requests at its end; kv_usage: share of the cache; finished_per_s: errors "
    "among them, cancelled ones not; percentiles of scraped servers are estimates, and *_within "
    "the bounds in which they lie (an upper bound that is NULL: there is none); tpot of a server "
    "that does not say it by requests is of single tokens",
    select=f"""
    WITH {_OWN}, capacity AS (
        SELECT run_id, max(value) AS kv_tokens FROM raw.aligned_event
        WHERE name = 'engine.ready' GROUP BY run_id
    ), {_SEEN}, {_LATENCY}, reading AS (
        SELECT run_id, process, step AS number, min(at_ns) AS end_ns, {_sampled(_GAUGES)},
               {_sampled(_COUNTS)}
        FROM raw.aligned_sample
        WHERE name IN ({_names(_GAUGES + _COUNTS)}) AND step >= 0 AND role = 'server'
        GROUP BY run_id, process, step
    )
    SELECT o.run_id, 'opsuite' AS source, r.name AS model, second * 1000000000 AS start_ns,
           1::DOUBLE AS duration_s, running::DOUBLE AS running, waiting::DOUBLE AS waiting,
           o.kv_tokens / capacity.kv_tokens AS kv_usage,
           prompt_tokens::DOUBLE AS prompt_tokens_per_s,
           greatest(0, round(generation_tokens, 6)) AS generation_tokens_per_s,
           finished::DOUBLE AS finished_per_s, errors::DOUBLE AS errors_per_s,
           NULL::DOUBLE AS preemptions_per_s,
           ttft[1] AS ttft_p50_s, ttft[2] AS ttft_p99_s, NULL::DOUBLE[] AS ttft_p50_within,
           NULL::DOUBLE[] AS ttft_p99_within, tpot[1] AS tpot_p50_s, tpot[2] AS tpot_p99_s,
           NULL::DOUBLE[] AS tpot_p50_within, NULL::DOUBLE[] AS tpot_p99_within
    FROM own AS o JOIN raw.run AS r USING (run_id) LEFT JOIN capacity USING (run_id)
    UNION ALL
    SELECT i.run_id, source, model, end_ns - coalesce((interval_s * 1e9)::BIGINT, 0), interval_s,
           running, waiting, kv_usage, prompt_tokens / interval_s, generation_tokens / interval_s,
           (finished + coalesce(errors, 0)) / interval_s, errors / interval_s,
           preemptions / interval_s, ttft.estimates[1], ttft.estimates[2], ttft.p50, ttft.p99,
           tpot.estimates[1], tpot.estimates[2], tpot.p50, tpot.p99
    FROM reading AS i JOIN seen USING (process)
    LEFT JOIN latency AS l
      ON l.run_id = i.run_id AND l.process = i.process AND l.number = i.number
    """,  # noqa: S608 - our own text
)

LATENCY_BUCKETS = View(
    name="latency_buckets",
    about="what the histograms of scraped servers counted, one row an interval, measure (ttft_s, "
    "tpot_s, itl_s, latency_s, queue_s, prefill_s, decode_s) and bucket that counted any: "
    "requests (of itl_s: tokens) above low_s and up to high_s (NULL: no bound); they add up over "
    "any stretch",
    select=f"""
    SELECT run_id, interval, end_ns, measure, unnest(low) AS low_s, unnest(high) AS high_s,
           unnest(counts) AS requests
    FROM (
        SELECT run_id, subject AS interval, at_ns AS end_ns,
               unnest(json_transform(document, '{_BUCKETS}'))
        FROM raw.aligned_event WHERE name = 'server.latency'
    )
    """,  # noqa: S608 - our own text
)
