"""What people ask of a server: how long requests took, and how many met their objectives.

Our own servers record requests; of scraped ones there are histograms, and so estimates.
"""

from __future__ import annotations

from collectors.query.macro import Macro

# Where a share of what was counted lies: in the first bucket up to which there is as much.
_QUANTILE = """
    SELECT measure, share, any_value(total)::BIGINT AS requests,
           arg_min(CASE WHEN high_s IS NULL THEN low_s
                        ELSE low_s + (high_s - low_s) * (share * total - upto + counted) / counted
                   END, upto) AS estimate,
           [min(low_s), min(high_s)] AS within
    FROM (
        SELECT *, sum(counted) OVER (PARTITION BY measure ORDER BY high_s NULLS LAST, low_s)
                      AS upto,
               sum(counted) OVER (PARTITION BY measure) AS total
        FROM (
            SELECT b.measure, b.low_s, b.high_s, sum(b.requests) AS counted
            FROM latency_buckets AS b, stretch AS t
            WHERE b.run_id = serving_named(run)
              AND (since_s = 0 OR b.end_ns > t.from_ns)
              AND (t.to_ns IS NULL OR b.end_ns <= t.to_ns)
            GROUP BY ALL
        )
    ), (SELECT unnest([0.5, 0.9, 0.99]) AS share)
    WHERE upto >= share * total GROUP BY measure, share
"""

TTFT = Macro(
    name="ttft",
    parameters="run, since_s := 0, until_s := NULL",
    example="'last', since_s := 60",
    about="of a server's requests: time to the first token, per further token, and of the whole "
    "answer, at the 50th, 90th and 99th percentile; requests: how many have it (of itl_s: "
    "tokens); since_s, until_s: of the run. Of a scraped server they are estimates, and *_within "
    "the bounds in which they lie (an upper one that is NULL: there is none), and there are its "
    "other measures too",
    select=f"""
    WITH stretch AS (
        SELECT r.started_ns + (since_s * 1e9)::BIGINT AS from_ns,
               r.started_ns + (until_s * 1e9)::BIGINT AS to_ns
        FROM raw.run AS r WHERE r.run_id = serving_named(run)
    ), measured AS (
        UNPIVOT (SELECT q.ttft_s, q.tpot_s, q.latency_s FROM requests AS q, stretch AS t
                 WHERE q.run_id = serving_named(run)
                   AND (since_s = 0 OR q.arrived_ns >= t.from_ns)
                   AND (t.to_ns IS NULL OR q.arrived_ns < t.to_ns))
        ON ttft_s, tpot_s, latency_s INTO NAME measure VALUE seconds
    ), estimated AS ({_QUANTILE}), answer AS (
        SELECT measure, count(*) AS requests, quantile_cont(seconds, 0.5) AS p50,
               quantile_cont(seconds, 0.9) AS p90, quantile_cont(seconds, 0.99) AS p99,
               NULL::DOUBLE[] AS p50_within, NULL::DOUBLE[] AS p90_within,
               NULL::DOUBLE[] AS p99_within
        FROM measured GROUP BY measure
        UNION ALL
        SELECT measure, any_value(requests), any_value(estimate) FILTER (share = 0.5),
               any_value(estimate) FILTER (share = 0.9), any_value(estimate) FILTER (share = 0.99),
               any_value(within) FILTER (share = 0.5), any_value(within) FILTER (share = 0.9),
               any_value(within) FILTER (share = 0.99)
        FROM estimated GROUP BY measure
    )
    SELECT * FROM answer
    ORDER BY list_position(['ttft_s', 'tpot_s', 'itl_s', 'latency_s', 'queue_s', 'prefill_s',
                            'decode_s'], measure)
    """,  # noqa: S608 - our own text
)

SLO = Macro(
    name="slo",
    parameters="run, ttft_s := 1.0, tpot_s := 0.1",
    example="'last', ttft_s := 0.5",
    about="share of the requests that ended (cancelled ones apart) whose first token and whose "
    "further tokens came in time; an error is a miss. Of a scraped server they are estimates "
    "(tpot of single tokens where it does not say it by requests), and attainment is NULL: "
    "histograms do not say which requests; it lies from their sum less 1 up to the lesser of both",
    select="""
    WITH bound AS (SELECT ttft_s AS first_s, tpot_s AS rest_s), ended AS (
        SELECT q.reason <> 'error' AND coalesce(q.first_s <= b.first_s, false) AS first_in_time,
               q.reason <> 'error' AND coalesce(q.rest_s <= b.rest_s, true) AS rest_in_time
        FROM (SELECT run_id, reason, COLUMNS('ttft_s') AS first_s, COLUMNS('tpot_s') AS rest_s
              FROM requests) AS q, bound AS b
        WHERE q.run_id = serving_named(run) AND q.reason IS NOT NULL AND q.reason <> 'cancelled'
    ), told AS (
        SELECT coalesce(sum(m.value) FILTER (m.name = 'server.errors'), 0) AS errors,
               sum(m.value)::BIGINT AS ended
        FROM raw.sample AS m
        WHERE m.run_id = serving_named(run) AND m.name IN ('server.finished', 'server.errors')
    ), counted AS (
        SELECT k.measure, k.requests,
               CASE WHEN k.high_s IS NULL THEN 0
                    ELSE greatest(0, least(1, (CASE k.measure WHEN 'ttft_s' THEN b.first_s
                                               ELSE b.rest_s END - k.low_s)
                                              / (k.high_s - k.low_s))) END AS in_time
        FROM latency_buckets AS k, bound AS b
        WHERE k.run_id = serving_named(run) AND k.measure IN ('ttft_s', 'tpot_s', 'itl_s')
    ), share AS (
        SELECT measure, sum(requests)::BIGINT AS requests,
               sum(requests * in_time) / sum(requests) AS in_time
        FROM counted GROUP BY measure
    ), scraped AS (
        SELECT any_value(ended) AS ended, any_value(1 - errors / nullif(ended, 0)) AS well,
               any_value(s.requests) FILTER (measure = 'ttft_s') AS first_tokens,
               any_value(in_time) FILTER (measure = 'ttft_s') AS first_in_time,
               coalesce(any_value(in_time) FILTER (measure = 'tpot_s'),
                        any_value(in_time) FILTER (measure = 'itl_s')) AS rest_in_time
        FROM told LEFT JOIN share AS s ON true
    ), own AS (
        SELECT count(*) AS requests, avg(first_in_time::INTEGER) AS first_in_time,
               avg(rest_in_time::INTEGER) AS rest_in_time,
               avg((first_in_time AND rest_in_time)::INTEGER) AS both_in_time
        FROM ended
    )
    SELECT o.requests + coalesce(s.ended, s.first_tokens, 0) AS requests,
           coalesce(o.first_in_time, s.first_in_time * coalesce(well, 1)) AS ttft_attainment,
           coalesce(o.rest_in_time, s.rest_in_time * coalesce(well, 1)) AS tpot_attainment,
           o.both_in_time AS attainment
    FROM own AS o, scraped AS s
    """,
)
