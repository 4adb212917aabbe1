"""The views: what people, playbooks and screens read.

Durations are seconds, instants are wall-clock nanoseconds, and what is missing is NULL. The times
of all ranks of one host come from one clock and can be compared exactly; those of other hosts are
moved onto it, and what compares them has the bound of the error beside it.
"""

from __future__ import annotations

from collectors.query.event_views import (
    ALERTS,
    EVENTS,
    FAULTS,
    FINDINGS,
    HEARTBEATS,
    ITERATIONS,
    REQUESTS,
    STACKS,
)
from collectors.query.fleet_views import GROUP_ITERATIONS, INSTANCES, SCALING
from collectors.query.gpu_views import GPU_EVENTS, GPU_PROCESSES, GPU_SAMPLES, GPUS
from collectors.query.log_view import LOG_EVENTS
from collectors.query.sample_views import HOST_SAMPLES, SAMPLERS
from collectors.query.serving_views import LATENCY_BUCKETS, SERVING
from collectors.query.view import View

RUNS = View(
    name="runs",
    about="one row a run; steps, loss: how far it came (loss of the lowest rank's last step); "
    "dropped: records without space, damaged: stretches left out, expired: rows taken by retention",
    select="""
    SELECT r.run_id, r.name, r.kind, r.status, r.host, r.world_size,
           make_timestamp(started_ns // 1000) AS started, started_ns,
           (ended_ns - started_ns) / 1e9 AS duration_s, exit_code,
           coalesce(progress.steps, 0) AS steps, final.loss,
           coalesce(lost.dropped, 0) AS dropped, coalesce(hurt.damaged, 0) AS damaged, expired,
           git_commit, version, command, config, notes, tags, pinned
    FROM raw.run AS r
    LEFT JOIN (
        SELECT run_id, count(*) AS steps FROM (
            SELECT DISTINCT run_id, step FROM raw.span WHERE name = 'step' AND step >= 0
        ) GROUP BY run_id
    ) AS progress USING (run_id)
    LEFT JOIN (
        SELECT s.run_id, arg_max(value, (step, -rank, at_ns)) AS loss
        FROM raw.sample AS s JOIN raw.process AS p USING (process)
        WHERE s.name = 'loss' GROUP BY s.run_id
    ) AS final USING (run_id)
    LEFT JOIN (
        SELECT run_id, sum(dropped)::BIGINT AS dropped FROM raw.process GROUP BY run_id
    ) AS lost USING (run_id)
    LEFT JOIN (
        SELECT run_id, count(*) AS damaged FROM raw.damage GROUP BY run_id
    ) AS hurt USING (run_id)
    """,
)

RANKS = View(
    name="ranks",
    about="one row a rank (of its first process); coordinates in the mesh as JSON, and by axis",
    select="""
    SELECT DISTINCT ON (run_id, rank) run_id, rank, host, pid, world_size, coordinates,
           (coordinates ->> 'tp')::INTEGER AS tp, (coordinates ->> 'pp')::INTEGER AS pp,
           (coordinates ->> 'dp')::INTEGER AS dp, (coordinates ->> 'sp')::INTEGER AS sp
    FROM raw.process WHERE rank IS NOT NULL ORDER BY run_id, rank, opened_ns, process
    """,
)

HOSTS = View(
    name="hosts",
    about="one row a host of a run and boot: its ranks, and how its clock was found to go against "
    "the run's first host (offset, drift, bound of the error); last_ns: of its latest record",
    select="""
    WITH seen AS (
        SELECT process, (max(second) + 1) * 1000000000 AS last_ns FROM (
            SELECT process, second FROM raw.rollup
            UNION ALL SELECT process, second FROM raw.hot_rollup
        ) GROUP BY process
    )
    SELECT p.run_id, p.host, count(DISTINCT p.rank) AS ranks, count(*) AS processes, p.boot_id,
           any_value(clock_offset_ns) / 1e9 AS clock_offset_s,
           any_value(clock_drift) * 1e6 AS clock_drift_ppm,
           any_value(clock_error_ns) / 1e9 AS clock_error_s,
           min(opened_ns) AS first_ns, max(last_ns) AS last_ns
    FROM raw.process AS p LEFT JOIN seen USING (process)
    GROUP BY p.run_id, p.host, p.boot_id
    """,
)

PROCESSES = View(
    name="processes",
    about="one row a recording process: ranks, servers, launchers and children that they forked; "
    "dropped: records for which it had no disk space",
    select="""
    SELECT run_id, key AS process, role, rank, host, pid, opened_ns, dropped FROM raw.process
    """,
)

STEPS = View(
    name="steps",
    about="one row a rank and step, with what was sampled in it; mfu: share of the devices' peak, "
    "attention counted whole, mfu_causal: as far as it looks; memory_bytes: the most so far",
    select="""
    WITH sampled AS (
        SELECT run_id, process, step,
               arg_max(value, at_ns) FILTER (name = 'loss') AS loss,
               arg_max(value, at_ns) FILTER (name = 'tokens') AS tokens,
               arg_max(value, at_ns) FILTER (name = 'grad_norm') AS grad_norm,
               arg_max(value, at_ns) FILTER (name = 'learning_rate') AS learning_rate,
               arg_max(value, at_ns) FILTER (name = 'tokens_per_s') AS tokens_per_s,
               arg_max(value, at_ns) FILTER (name = 'mfu') AS mfu,
               arg_max(value, at_ns) FILTER (name = 'mfu_causal') AS mfu_causal,
               arg_max(value, at_ns) FILTER (name = 'memory_bytes') AS memory_bytes,
               arg_max(value, at_ns) FILTER (name = 'gc_s') AS gc_s,
               arg_max(value, at_ns) FILTER (name = 'cpu_time_s') AS cpu_time_s,
               arg_max(value, at_ns) FILTER (name = 'run_queue_wait_s') AS run_queue_wait_s,
               arg_max(value, at_ns) FILTER (name = 'throttled_s') AS throttled_s
        FROM raw.sample WHERE step >= 0 GROUP BY run_id, process, step
    )
    SELECT s.run_id, s.rank, host, s.step, start_ns, end_ns, duration_ns / 1e9 AS duration_s,
           (duration_ns - collective_ns) / 1e9 AS own_s, blocked_ns / 1e9 AS blocked_s,
           (collective_ns - blocked_ns) / 1e9 AS transfer_s,
           loss, tokens, grad_norm, learning_rate, tokens_per_s, mfu, mfu_causal, memory_bytes,
           gc_s, cpu_time_s, run_queue_wait_s, throttled_s
    FROM raw.split_span AS s JOIN raw.process AS p USING (process)
    LEFT JOIN sampled AS m ON m.run_id = s.run_id AND m.process = s.process AND m.step = s.step
    WHERE s.name = 'step'
    """,
)

PHASES = View(
    name="phases",
    about="time of each phase of a step: own_s = outside of collectives, blocked_s = waiting for "
    "other ranks in them, transfer_s = the rest of them; their sum is duration_s",
    select="""
    SELECT s.run_id, s.rank, host, step, name AS phase, start_ns, duration_ns / 1e9 AS duration_s,
           (duration_ns - collective_ns) / 1e9 AS own_s, blocked_ns / 1e9 AS blocked_s,
           (collective_ns - blocked_ns) / 1e9 AS transfer_s
    FROM raw.split_span AS s JOIN raw.process USING (process)
    WHERE name <> 'step'
    """,
)

SPANS = View(
    name="spans",
    about="what took time, phases of steps among it; step NULL: outside of a step",
    select="""
    SELECT run_id, rank, host, name, nullif(step, -1) AS step, start_ns, end_ns,
           (end_ns - start_ns) / 1e9 AS duration_s
    FROM raw.aligned_span
    """,
)

COLLECTIVES = View(
    name="collectives",
    about="a rank's part in a collective; blocked_s: waiting for the last of the group to arrive "
    "(at most the duration), NULL where not all of the group was seen; clock_error_s: by how much "
    "it can be wrong, 0 within one host, NULL where it is not known",
    select="""
    SELECT run_id, rank, host, name, "group", group_size, sequence, size_bytes,
           nullif(step, -1) AS step, start_ns, end_ns, (end_ns - start_ns) / 1e9 AS duration_s,
           blocked_ns / 1e9 AS blocked_s, blocked_error_ns / 1e9 AS clock_error_s
    FROM raw.blocked_collective
    """,
)

COMMUNICATION = View(
    name="communication",
    about="how much of a rank's communication along an axis of the mesh was hidden in a step: "
    "in_flight_s: from when each operation was begun (of a pipeline's message: sent) until it had "
    "come; waited_s: how long the rank waited meanwhile; blocked_s: for others to begin (along pp: "
    "the bubble); hidden: share of in_flight_s in which the rank did not wait",
    select="""
    WITH part AS (
        SELECT run_id, process, rank, host, step, split_part("group", '[', 1) AS axis,
               name = 'message' AS message, start_ns, end_ns, end_ns - start_ns AS waited_ns,
               coalesce(blocked_ns, 0) AS blocked_ns,
               max(CASE WHEN name = 'message' AND start_ns = end_ns THEN start_ns END) OVER (
                   PARTITION BY run_id, "group", name, sequence, step
               ) AS sent_ns
        FROM raw.blocked_collective WHERE step >= 0 AND rank IS NOT NULL
    ), operation AS (
        SELECT run_id, process, rank, host, step, axis, sum(blocked_ns) AS blocked_ns,
               sum(CASE WHEN message THEN waited_ns - blocked_ns ELSE waited_ns END) AS waited_ns,
               coalesce(sum(greatest(end_ns - sent_ns, 0)) FILTER (message AND waited_ns > 0), 0)
                   AS message_ns
        FROM part GROUP BY ALL
    ), flight AS (
        SELECT run_id, process, step, substr(name, 11) AS axis,
               sum(end_ns - start_ns) AS flight_ns
        FROM raw.aligned_span WHERE starts_with(name, 'in_flight.') AND step >= 0 GROUP BY ALL
    ), both_ways AS (
        SELECT operation.*,
               greatest(message_ns + coalesce(flight_ns, 0), waited_ns) AS in_flight_ns
        FROM operation LEFT JOIN flight USING (run_id, process, step, axis)
    )
    SELECT run_id, rank, host, step, axis, in_flight_ns / 1e9 AS in_flight_s,
           waited_ns / 1e9 AS waited_s, blocked_ns / 1e9 AS blocked_s,
           CASE WHEN in_flight_ns > 0 THEN 1 - waited_ns / in_flight_ns END AS hidden
    FROM both_ways
    """,
)

SAMPLES = View(
    name="samples",
    about="measured values; step NULL: outside of a step",
    select="""
    SELECT run_id, rank, host, name, nullif(step, -1) AS step, at_ns, value
    FROM raw.aligned_sample
    """,
)

ROLLUPS = View(
    name="rollups",
    about="one row a second (by the host's own clock), rank, kind (span, collective, sample, "
    "event) and name: how many, and total, mean, least and most of durations in s or of values",
    select="""
    SELECT r.run_id, rank, host, r.kind, r.name, make_timestamp(second * 1000000) AS second,
           sum(count)::BIGINT AS count, sum(total) AS total, sum(total) / sum(count) AS mean,
           min(least) AS least, max(most) AS most
    FROM (FROM raw.rollup UNION ALL FROM raw.hot_rollup) AS r
    JOIN raw.process AS p USING (process)
    GROUP BY r.run_id, rank, host, r.kind, r.name, second
    """,
)

DAMAGE = View(
    name="damage",
    about="stretches of spool files that were damaged and left out",
    select="SELECT run_id, file, position, what FROM raw.damage",
)

VIEWS = (
    RUNS,
    RANKS,
    HOSTS,
    PROCESSES,
    STEPS,
    PHASES,
    SPANS,
    COLLECTIVES,
    COMMUNICATION,
    SAMPLES,
    EVENTS,
    FAULTS,
    REQUESTS,
    ITERATIONS,
    GROUP_ITERATIONS,
    INSTANCES,
    SCALING,
    SERVING,
    LATENCY_BUCKETS,
    HOST_SAMPLES,
    SAMPLERS,
    GPUS,
    GPU_SAMPLES,
    GPU_EVENTS,
    GPU_PROCESSES,
    HEARTBEATS,
    FINDINGS,
    STACKS,
    LOG_EVENTS,
    ALERTS,
    ROLLUPS,
    DAMAGE,
)


def create_views() -> str:
    """The statements that make all views, each with its comment."""
    statements = [f"CREATE OR REPLACE VIEW {view.name} AS {view.select};" for view in VIEWS]
    for view in VIEWS:
        about = view.about.replace("'", "''")
        statements.append(f"COMMENT ON VIEW {view.name} IS '{about}';")
    return "\n".join(statements)
