"""The views: what people, playbooks and screens read.

Durations are seconds, instants are wall-clock nanoseconds, and what is missing is NULL. The times
of all ranks of one host come from one clock and can be compared exactly.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class View:
    """A view: its name, one line about it, and the SELECT behind it."""

    name: str
    about: str
    select: str


RUNS = View(
    name="runs",
    about="one row a run; steps, loss: how far it came (loss of the lowest rank's last step)",
    select="""
    SELECT run_id, name, kind, status, host, world_size,
           make_timestamp_ns(started_ns) AS started, started_ns,
           (ended_ns - started_ns) / 1e9 AS duration_s, exit_code,
           coalesce(progress.steps, 0) AS steps, final.loss,
           coalesce(lost.dropped, 0) AS dropped, coalesce(hurt.damaged, 0) AS damaged,
           git_commit, version, command, config, notes
    FROM raw.run
    LEFT JOIN (
        SELECT run_id, count(DISTINCT step) AS steps FROM raw.span JOIN raw.process USING (process)
        WHERE raw.span.name = 'step' AND step >= 0 GROUP BY run_id
    ) AS progress USING (run_id)
    LEFT JOIN (
        SELECT run_id, arg_max(value, (step, -rank, at_ns)) AS loss
        FROM raw.sample JOIN raw.process USING (process)
        WHERE raw.sample.name = 'loss' GROUP BY run_id
    ) AS final USING (run_id)
    LEFT JOIN (
        SELECT run_id, sum(dropped)::BIGINT AS dropped FROM raw.segment GROUP BY run_id
    ) AS lost USING (run_id)
    LEFT JOIN (
        SELECT run_id, count(*) AS damaged FROM raw.damage GROUP BY run_id
    ) AS hurt USING (run_id)
    """,
)

RANKS = View(
    name="ranks",
    about="one row a rank (of its first process); coordinates in the mesh are JSON",
    select="""
    SELECT run_id, rank, arg_min(host, process) AS host, arg_min(pid, process) AS pid,
           arg_min(world_size, process) AS world_size,
           arg_min(coordinates, process) AS coordinates
    FROM raw.process WHERE rank IS NOT NULL GROUP BY run_id, rank
    """,
)

PROCESSES = View(
    name="processes",
    about="one row a recording process: ranks, servers, launchers and children that they forked; "
    "dropped: records for which it had no disk space",
    select="""
    SELECT p.run_id, p.key AS process, p.role, p.rank, p.host, p.pid,
           coalesce(sum(s.dropped), 0)::BIGINT AS dropped
    FROM raw.process AS p LEFT JOIN raw.segment AS s USING (process)
    GROUP BY ALL
    """,
)

SPANS = View(
    name="spans",
    about="what took time, phases of steps among it; step NULL: outside of a step",
    select="""
    SELECT run_id, rank, host, name, nullif(step, -1) AS step, start_ns, end_ns,
           (end_ns - start_ns) / 1e9 AS duration_s
    FROM raw.span JOIN raw.process USING (process)
    """,
)

_BLOCKED = View(
    name="raw.timed_collective",
    about="collectives with blocked_ns, by process",
    select="""
    WITH arrival AS (
        SELECT run_id, "group", name, sequence, step, max(start_ns) AS last_ns,
               count(*) AS arrivals, count(DISTINCT rank) AS ranks
        FROM raw.collective JOIN raw.process USING (process)
        GROUP BY ALL
    )
    SELECT p.run_id, p.rank, p.host, c.*,
           CASE WHEN a.arrivals = c.group_size AND a.ranks = c.group_size
                THEN least(a.last_ns - c.start_ns, c.end_ns - c.start_ns) END AS blocked_ns
    FROM raw.collective AS c JOIN raw.process AS p USING (process)
    JOIN arrival AS a
      ON a.run_id = p.run_id AND a."group" = c."group" AND a.name = c.name
     AND a.sequence = c.sequence AND a.step = c.step
    """,
)

COLLECTIVES = View(
    name="collectives",
    about="a rank's part in a collective; blocked_s: waiting for the last of the group to arrive "
    "(at most the duration), NULL where not all of the group was seen",
    select="""
    SELECT run_id, rank, host, name, "group", group_size, sequence, size_bytes,
           nullif(step, -1) AS step, start_ns, end_ns, (end_ns - start_ns) / 1e9 AS duration_s,
           blocked_ns / 1e9 AS blocked_s
    FROM raw.timed_collective
    """,
)

_OWN = View(
    name="raw.split_span",
    about="spans of steps with the collectives inside of them (same process and step) summed up",
    select="""
    SELECT s.process, s.name, s.step, s.start_ns, s.end_ns, s.end_ns - s.start_ns AS duration_ns,
           coalesce(sum(c.end_ns - c.start_ns), 0) AS collective_ns,
           CASE WHEN count(c.process) = count(c.blocked_ns)
                THEN coalesce(sum(c.blocked_ns), 0) END AS blocked_ns
    FROM raw.span AS s LEFT JOIN raw.timed_collective AS c
      ON c.process = s.process AND c.step = s.step
     AND c.start_ns >= s.start_ns AND c.end_ns <= s.end_ns
    WHERE s.step >= 0
    GROUP BY s.process, s.name, s.step, s.start_ns, s.end_ns
    """,
)

PHASES = View(
    name="phases",
    about="time of each phase of a step: own_s = outside of collectives, blocked_s = waiting for "
    "other ranks in them, transfer_s = the rest of them; their sum is duration_s",
    select="""
    SELECT run_id, rank, host, step, p.name AS phase, min(start_ns) AS start_ns,
           sum(duration_ns) / 1e9 AS duration_s,
           sum(duration_ns - collective_ns) / 1e9 AS own_s,
           CASE WHEN count(*) = count(blocked_ns) THEN sum(blocked_ns) / 1e9 END AS blocked_s,
           CASE WHEN count(*) = count(blocked_ns)
                THEN sum(collective_ns - blocked_ns) / 1e9 END AS transfer_s
    FROM raw.split_span AS p JOIN raw.process USING (process)
    WHERE p.name <> 'step'
    GROUP BY run_id, rank, host, process, step, p.name
    """,
)

STEPS = View(
    name="steps",
    about="one row a rank and step, with what was sampled in it",
    select="""
    WITH sampled AS (
        SELECT process, step,
               arg_max(value, at_ns) FILTER (name = 'loss') AS loss,
               arg_max(value, at_ns) FILTER (name = 'tokens') AS tokens,
               arg_max(value, at_ns) FILTER (name = 'grad_norm') AS grad_norm,
               arg_max(value, at_ns) FILTER (name = 'learning_rate') AS learning_rate,
               arg_max(value, at_ns) FILTER (name = 'cpu_time_s') AS cpu_time_s,
               arg_max(value, at_ns) FILTER (name = 'run_queue_wait_s') AS run_queue_wait_s
        FROM raw.sample WHERE step >= 0 GROUP BY process, step
    )
    SELECT run_id, rank, host, s.step, start_ns, end_ns, duration_ns / 1e9 AS duration_s,
           (duration_ns - collective_ns) / 1e9 AS own_s, blocked_ns / 1e9 AS blocked_s,
           (collective_ns - blocked_ns) / 1e9 AS transfer_s,
           loss, tokens, grad_norm, learning_rate, cpu_time_s, run_queue_wait_s
    FROM raw.split_span AS s JOIN raw.process USING (process)
    LEFT JOIN sampled ON sampled.process = s.process AND sampled.step = s.step
    WHERE s.name = 'step'
    """,
)

SAMPLES = View(
    name="samples",
    about="measured values; step NULL: outside of a step",
    select="""
    SELECT run_id, rank, host, raw.sample.name, nullif(step, -1) AS step, at_ns, value
    FROM raw.sample JOIN raw.process USING (process)
    """,
)

_EVENT = """
    SELECT run_id, rank, host, raw.event.name, nullif(subject, -1) AS subject, at_ns,
           value, attributes
    FROM raw.event JOIN raw.process USING (process)
"""

EVENTS = View(
    name="events",
    about="what happened at an instant; attributes are JSON (injected faults are in faults)",
    select=f"{_EVENT} WHERE NOT starts_with(raw.event.name, 'fault.')",
)

FAULTS = View(
    name="faults",
    about="the truth about injected faults: diagnoses are judged by it, and never read it",
    select=f"{_EVENT} WHERE starts_with(raw.event.name, 'fault.')",
)

REQUESTS = View(
    name="requests",
    about="one row a request: waiting, first token, time per further token; NULL: not so far yet",
    select="""
    WITH life AS (
        SELECT process, subject AS request,
               any_value(attributes ->> 'id') FILTER (name = 'request.arrived') AS id,
               any_value((attributes ->> 'prompt_tokens')::BIGINT)
                   FILTER (name = 'request.arrived') AS prompt_tokens,
               min(at_ns) FILTER (name = 'request.arrived') AS arrived_ns,
               min(at_ns) FILTER (name = 'request.scheduled') AS scheduled_ns,
               min(at_ns) FILTER (name = 'request.first_token') AS first_token_ns,
               max(at_ns) FILTER (name = 'request.finished') AS finished_ns,
               any_value(value) FILTER (name = 'request.finished')::BIGINT AS output_tokens,
               any_value(attributes ->> 'reason') FILTER (name = 'request.finished') AS reason
        FROM raw.event WHERE starts_with(name, 'request.') AND subject >= 0
        GROUP BY process, subject
    )
    SELECT run_id, request, id, arrived_ns, (scheduled_ns - arrived_ns) / 1e9 AS queue_s,
           (first_token_ns - arrived_ns) / 1e9 AS ttft_s,
           CASE WHEN output_tokens > 1
                THEN (finished_ns - first_token_ns) / 1e9 / (output_tokens - 1) END AS tpot_s,
           (finished_ns - arrived_ns) / 1e9 AS latency_s, prompt_tokens, output_tokens, reason
    FROM life JOIN raw.process USING (process)
    """,
)

DAMAGE = View(
    name="damage",
    about="stretches of spool files that were damaged and left out",
    select="SELECT run_id, file, position, what FROM raw.damage",
)

INNER = (_BLOCKED, _OWN)
VIEWS = (
    RUNS,
    RANKS,
    PROCESSES,
    STEPS,
    PHASES,
    SPANS,
    COLLECTIVES,
    SAMPLES,
    EVENTS,
    FAULTS,
    REQUESTS,
    DAMAGE,
)


def create_views() -> str:
    """The statements that make all views, each with its comment."""
    statements = [f"CREATE VIEW {view.name} AS {view.select};" for view in INNER + VIEWS]
    for view in VIEWS:
        about = view.about.replace("'", "''")
        statements.append(f"COMMENT ON VIEW {view.name} IS '{about}';")
    return "\n".join(statements)
