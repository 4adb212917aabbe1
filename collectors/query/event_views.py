"""Views of events: what requests, servers, processes, diagnoses and alerts said when."""

from __future__ import annotations

from collectors.query.view import View

# ``document`` is the attributes where they are JSON: of long ones the end was cut off.
_EVENT = """
    SELECT run_id, rank, host, name, nullif(subject, -1) AS subject, at_ns, value, attributes
    FROM raw.aligned_event
"""

EVENTS = View(
    name="events",
    about="what happened at an instant; attributes are JSON (injected faults are in faults)",
    select=f"{_EVENT} WHERE NOT starts_with(name, 'fault.')",
)

FAULTS = View(
    name="faults",
    about="the truth about injected faults: diagnoses are judged by it, and never read it",
    select=f"{_EVENT} WHERE starts_with(name, 'fault.')",
)

REQUESTS = View(
    name="requests",
    about="one row a request: waiting, first token, time per further token; NULL: not so far yet; "
    "preemptions: how often others ran instead of it, swaps: how often its keys and values came "
    "back from the host, drops: how often they were computed again",
    select="""
    WITH life AS (
        SELECT run_id, subject AS request,
               any_value(document ->> 'id') FILTER (name = 'request.arrived') AS id,
               any_value(TRY_CAST(document ->> 'prompt_tokens' AS BIGINT))
                   FILTER (name = 'request.arrived') AS prompt_tokens,
               min(at_ns) FILTER (name = 'request.arrived') AS arrived_ns,
               min(at_ns) FILTER (name = 'request.scheduled') AS scheduled_ns,
               min(at_ns) FILTER (name = 'request.first_token') AS first_token_ns,
               max(at_ns) FILTER (name = 'request.finished') AS finished_ns,
               any_value(value) FILTER (name = 'request.finished')::BIGINT AS output_tokens,
               any_value(document ->> 'reason') FILTER (name = 'request.finished') AS reason,
               count(*) FILTER (name = 'request.preempted') AS preemptions,
               count(*) FILTER (name = 'request.swapped_in') AS swaps,
               count(*) FILTER (name = 'request.dropped') AS drops
        FROM raw.aligned_event WHERE starts_with(name, 'request.') AND subject >= 0
        GROUP BY run_id, subject
    )
    SELECT run_id, request, id, arrived_ns, (scheduled_ns - arrived_ns) / 1e9 AS queue_s,
           (first_token_ns - arrived_ns) / 1e9 AS ttft_s,
           CASE WHEN output_tokens > 1
                THEN (finished_ns - first_token_ns) / 1e9 / (output_tokens - 1) END AS tpot_s,
           (finished_ns - arrived_ns) / 1e9 AS latency_s, prompt_tokens, output_tokens, reason,
           preemptions, swaps, drops
    FROM life
    """,
)

ITERATIONS = View(
    name="iterations",
    about="one row an iteration of a server: kind (prefill, decode, or mixed), and what it held; "
    "after an engine was replaced, numbers begin again",
    select="""
    WITH held AS (
        SELECT run_id, process, step AS iteration,
               arg_max(value, at_ns) FILTER (name = 'running_requests')::BIGINT
                   AS running_requests,
               arg_max(value, at_ns) FILTER (name = 'kv_tokens')::BIGINT AS kv_tokens
        FROM raw.sample
        WHERE name IN ('running_requests', 'kv_tokens') GROUP BY run_id, process, step
    )
    SELECT s.run_id, host, step AS iteration, name AS kind, start_ns, end_ns,
           (end_ns - start_ns) / 1e9 AS duration_s, running_requests, kv_tokens
    FROM raw.aligned_span AS s
    LEFT JOIN held AS h ON h.run_id = s.run_id AND h.process = s.process AND h.iteration = s.step
    WHERE role = 'server' AND name IN ('prefill', 'decode', 'mixed') AND step >= 0
    """,
)

HEARTBEATS = View(
    name="heartbeats",
    about="signs of life of the recording processes, every few seconds, with what they use",
    select="""
    SELECT run_id, TRY_CAST(document ->> 'rank' AS INTEGER) AS rank,
           document ->> 'role' AS role, host,
           TRY_CAST(document ->> 'pid' AS BIGINT) AS pid, at_ns, document ->> 'state' AS state,
           TRY_CAST(document ->> 'rss_bytes' AS BIGINT) AS rss_bytes,
           TRY_CAST(document ->> 'cpu_s' AS DOUBLE) AS cpu_s,
           TRY_CAST(document ->> 'threads' AS INTEGER) AS threads
    FROM raw.aligned_event WHERE name = 'heartbeat'
    """,
)

FINDINGS = View(
    name="findings",
    about="what diagnoses concluded, the latest word on each culprit and stretch of steps; "
    "slowdown: 2 is twice as slow; share_lost: of the run's time",
    select="""
    SELECT DISTINCT ON (run_id, kind, ranks, first_step) run_id, at_ns,
           document ->> 'kind' AS kind, TRY_CAST(document -> 'ranks' AS INTEGER[]) AS ranks,
           TRY_CAST(document -> 'hosts' AS VARCHAR[]) AS hosts, document ->> 'phase' AS phase,
           document ->> 'cause' AS cause,
           nullif(TRY_CAST(document ->> '$.steps[0]' AS BIGINT), -1) AS first_step,
           nullif(TRY_CAST(document ->> '$.steps[1]' AS BIGINT), -1) AS last_step,
           TRY_CAST(document ->> 'slowdown' AS DOUBLE) AS slowdown,
           TRY_CAST(document ->> 'share_lost' AS DOUBLE) AS share_lost,
           document ->> 'confidence' AS confidence, document ->> 'action' AS action,
           document ->> 'sql' AS sql, document ->> 'evidence' AS evidence
    FROM raw.aligned_event WHERE name = 'finding'
    ORDER BY run_id, kind, ranks, first_step, at_ns DESC
    """,
)

STACKS = View(
    name="stacks",
    about="Python stacks that were taken, one row a thread; frames: the innermost first; gil: "
    "whether it holds the lock of its interpreter; child: of the rank, if it is one; error: why "
    "there is no stack, note: why a lesser one",
    select="""
    SELECT run_id, TRY_CAST(document ->> 'rank' AS INTEGER) AS rank,
           document ->> 'role' AS role, host,
           TRY_CAST(document ->> 'pid' AS BIGINT) AS pid, document ->> 'child' AS child, at_ns,
           document ->> 'thread' AS thread, TRY_CAST(document ->> 'main' AS BOOLEAN) AS main,
           TRY_CAST(document ->> 'stopped' AS BOOLEAN) AS stopped,
           TRY_CAST(document ->> 'active' AS BOOLEAN) AS active,
           TRY_CAST(document ->> 'gil' AS BOOLEAN) AS gil,
           list_transform(TRY_CAST(document -> 'frames' AS JSON[]), lambda f:
               concat(f ->> 'function', ' (', f ->> 'file', ':', f ->> 'line', ')')) AS frames,
           document ->> 'error' AS error,
           document ->> 'note' AS note
    FROM raw.aligned_event WHERE name = 'stack'
    """,
)

ALERTS = View(
    name="alerts",
    about="alerts that were told; state: firing, or resolved; row: the row that raised it, as JSON",
    select="""
    SELECT run_id, at_ns, document ->> 'rule' AS rule, document ->> 'severity' AS severity,
           document ->> 'state' AS state, document ->> 'message' AS message,
           TRY_CAST(document ->> 'count' AS BIGINT) AS count, document ->> 'row' AS row
    FROM raw.aligned_event WHERE name = 'alert'
    """,
)
