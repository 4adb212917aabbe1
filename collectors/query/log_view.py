"""The view of what logs told."""

from __future__ import annotations

from collectors.query.view import View

LOG_EVENTS = View(
    name="log_events",
    about="trouble that logs told of, one row a log, rule (nccl_error, cuda_error, out_of_memory, "
    "xid, traceback, not_finite, ...) and text: the first line of it, how many there were, when "
    "the first and the last was counted; text: the whole traceback (tables show its first line); "
    "rank NULL: the launcher's log",
    select="""
    SELECT run_id, TRY_CAST(document ->> 'rank' AS INTEGER) AS rank, host,
           document ->> 'log' AS log, document ->> 'rule' AS rule,
           any_value(document ->> 'severity') AS severity, document ->> 'line' AS line,
           max(TRY_CAST(document ->> 'count' AS BIGINT)) AS count,
           min(at_ns) AS first_ns, max(at_ns) AS last_ns, any_value(document ->> 'text') AS text
    FROM raw.aligned_event WHERE starts_with(name, 'log.')
    GROUP BY run_id, document ->> 'rank', host, document ->> 'log', document ->> 'rule',
             document ->> 'line'
    """,
)
