"""Table macros: the questions that people ask of a run, as functions to SELECT from.

Each takes a run's id, a beginning of it that no other has, or 'last': the newest run of the kind
that it asks about (the newest of all where there is none). They aggregate before they join and look
only at the collectives of the same process and step, so that they answer within a second or so
over ten million spans.
"""

from __future__ import annotations

from collectors.query.macro import Macro
from collectors.query.serving_macros import SLO, TTFT

# A lambda keeps the ids constant for the planner, which then opens the files of that run only.
_BEGIN_SO = "list_filter(getvariable('run_ids'), lambda id: starts_with(id, begins))"
_RUN_NAMED = f"""
    CREATE OR REPLACE MACRO run_named(begins) AS CASE
        WHEN begins = 'last' AND len(getvariable('run_ids')) > 0 THEN getvariable('run_ids')[1]
        WHEN list_contains(getvariable('run_ids'), begins) THEN begins
        WHEN len({_BEGIN_SO}) = 1 THEN {_BEGIN_SO}[1]
        WHEN len({_BEGIN_SO}) = 0
            THEN error('no run is named ' || begins || CASE WHEN len(getvariable('run_ids')) > 0
                       THEN '; there are ' || array_to_string(getvariable('run_ids')[:5], ', ')
                            || CASE WHEN len(getvariable('run_ids')) > 5 THEN ', ...' ELSE '' END
                       ELSE ': nothing was recorded yet' END)
        ELSE error(begins || ' is the beginning of several runs: '
                   || array_to_string({_BEGIN_SO}[:5], ', '))
    END;
"""

_KIND_NAMED = """
    CREATE OR REPLACE MACRO {kind}_named(begins) AS CASE
        WHEN begins = 'last' AND getvariable('last_{kind}') IS NOT NULL
            THEN getvariable('last_{kind}')
        ELSE run_named(begins)
    END;
"""

# Time of one phase by process and step, without the collectives inside of it.
_OWN = """
    chosen AS (
        SELECT t.process, t.step, t.start_ns, t.end_ns FROM raw.span AS t
        WHERE t.run_id = training_named(run) AND t.name = {name} AND t.step >= 0
    ), part AS (
        SELECT process, step, end_ns - start_ns AS duration_ns, end_ns - start_ns AS own_ns
        FROM chosen
        UNION ALL
        SELECT s.process, s.step, 0, c.start_ns - c.end_ns
        FROM raw.collective AS c JOIN chosen AS s
          ON c.process = s.process AND c.step = s.step
         AND c.start_ns >= s.start_ns AND c.end_ns <= s.end_ns
        WHERE c.run_id = training_named(run)
    ), own AS (
        SELECT process, step, sum(duration_ns)::BIGINT / 1e9 AS duration_s,
               sum(own_ns)::BIGINT / 1e9 AS own_s
        FROM part GROUP BY process, step
    )
"""

STRAGGLERS = Macro(
    name="stragglers",
    parameters="run",
    about="ranks by own time a step (outside of collectives), the slowest first; ratio: to the "
    "lower median of all ranks (of two ranks: to the faster one)",
    select=f"""
    WITH {_OWN.format(name="'step'")}, ranked AS (
        SELECT p.rank, any_value(p.host) AS host, count(*) AS steps, median(own_s) AS own_s
        FROM own JOIN raw.process AS p USING (process)
        WHERE p.rank IS NOT NULL GROUP BY p.rank
    )
    SELECT training_named(run) AS run_id, rank, host, steps, own_s,
           own_s / (SELECT nullif(quantile_disc(own_s, 0.5), 0) FROM ranked) AS ratio
    FROM ranked ORDER BY ratio DESC, rank
    """,  # noqa: S608 - our own text
)

HEATMAP = Macro(
    name="heatmap",
    parameters="run, phase",
    example="'last', 'forward'",
    about="a phase's mean time by rank and stretch of steps (at most 100 of them); ratio: own time "
    "to the lower median of all ranks in that stretch (of two ranks: to the faster one)",
    select=f"""
    WITH {_OWN.format(name="phase")}, extent AS (
        SELECT min(step) AS first, ceil((max(step) - min(step) + 1) / 100)::BIGINT AS width
        FROM chosen
    ), cell AS (
        SELECT o.process, (o.step - e.first) // e.width AS bucket, min(o.step) AS first_step,
               max(o.step) AS last_step, avg(duration_s) AS duration_s, avg(own_s) AS own_s
        FROM own AS o, extent AS e GROUP BY o.process, bucket
    ), middle AS (
        SELECT bucket, quantile_disc(own_s, 0.5) AS own_s FROM cell GROUP BY bucket
    )
    SELECT p.rank, c.bucket, c.first_step, c.last_step, c.duration_s, c.own_s,
           c.own_s / nullif(m.own_s, 0) AS ratio
    FROM cell AS c JOIN middle AS m USING (bucket) JOIN raw.process AS p USING (process)
    WHERE p.rank IS NOT NULL
    """,  # noqa: S608 - our own text
)

STEP_BREAKDOWN = Macro(
    name="step_breakdown",
    parameters="run",
    about="where a step's time goes, by phase over all ranks and steps: median and 99th percentile "
    "of its time, means of own, blocked and transfer time; share: of the time of all steps (of "
    "more than 200,000 steps of ranks, every n-th step is taken)",
    select="""
    WITH spread AS MATERIALIZED (
        SELECT greatest(1, ceil(count(*) / 200000))::BIGINT AS every FROM raw.span AS t
        WHERE t.run_id = training_named(run) AND t.name = 'step' AND t.step >= 0
    ), chosen AS MATERIALIZED (
        SELECT t.process, t.step, t.name, t.start_ns, t.end_ns
        FROM raw.aligned_span AS t, spread AS e
        WHERE t.run_id = training_named(run) AND t.step >= 0 AND t.step % e.every = 0
    ), timed AS (
        SELECT process, step, name, sum((end_ns - start_ns)::DOUBLE) / 1e9 AS seconds,
               min(start_ns) AS start_ns
        FROM chosen GROUP BY process, step, name
    ), phase AS (
        SELECT name, min(start_ns) AS first_ns, count(*) AS times, median(seconds) AS median_s,
               quantile_cont(seconds, 0.99) AS p99_s, sum(seconds) AS total_s
        FROM timed GROUP BY name
    ), collective AS MATERIALIZED (
        SELECT c.process, c.step, c.start_ns, c.end_ns, c.blocked_ns
        FROM raw.blocked_collective AS c, spread AS e
        WHERE c.run_id = training_named(run) AND c.step >= 0 AND c.step % e.every = 0
    ), inside AS (
        SELECT t.name, sum(c.end_ns - c.start_ns) / 1e9 AS collective_s,
               CASE WHEN count(*) = count(c.blocked_ns) THEN sum(c.blocked_ns) / 1e9 END
                   AS blocked_s
        FROM chosen AS t JOIN collective AS c
          ON c.process = t.process AND c.step = t.step
         AND c.start_ns >= t.start_ns AND c.end_ns <= t.end_ns
        GROUP BY t.name
    )
    SELECT f.name AS phase, f.median_s, f.p99_s,
           (f.total_s - coalesce(i.collective_s, 0)) / f.times AS own_s,
           CASE WHEN i.name IS NULL THEN 0 ELSE i.blocked_s / f.times END AS blocked_s,
           CASE WHEN i.name IS NULL THEN 0 ELSE (i.collective_s - i.blocked_s) / f.times END
               AS transfer_s,
           f.total_s / (SELECT total_s FROM phase WHERE name = 'step') AS share
    FROM phase AS f LEFT JOIN inside AS i USING (name) ORDER BY f.first_ns, f.total_s DESC
    """,
)

TIMELINE = Macro(
    name="timeline",
    parameters="run, step_number",
    example="'last', 10",
    about="spans and collectives of one step by rank; start_s: from when its first rank began it",
    select="""
    WITH part AS (
        SELECT t.rank, t.host, 'span' AS kind, t.name, t.start_ns, t.end_ns, NULL AS blocked_ns
        FROM raw.aligned_span AS t WHERE t.run_id = training_named(run) AND t.step = step_number
        UNION ALL
        SELECT c.rank, c.host, 'collective', c.name || ' ' || c."group", c.start_ns, c.end_ns,
               c.blocked_ns
        FROM raw.blocked_collective AS c
        WHERE c.run_id = training_named(run) AND c.step = step_number
    )
    SELECT rank, host, kind, name, (start_ns - first_value(start_ns) OVER (
               ORDER BY name = 'step' AND kind = 'span' DESC, start_ns)) / 1e9 AS start_s,
           (end_ns - start_ns) / 1e9 AS duration_s, blocked_ns / 1e9 AS blocked_s
    FROM part WHERE rank IS NOT NULL ORDER BY rank, start_ns, end_ns DESC
    """,
)

GOODPUT = Macro(
    name="goodput",
    parameters="run",
    about="what of the run's wall time made progress: productive_s counts each step once, by its "
    "slowest rank; repeated_s: steps done again after a restart; shares are of the ranks' time in "
    "steps",
    select="""
    WITH tried AS (
        SELECT t.step, p.rank, arg_max(t.end_ns - t.start_ns, t.start_ns) AS last_ns,
               sum(t.end_ns - t.start_ns) AS all_ns, max(t.end_ns) AS end_ns
        FROM raw.span AS t JOIN raw.process AS p USING (process)
        WHERE t.run_id = training_named(run) AND t.name = 'step' AND t.step >= 0
        GROUP BY t.step, p.rank
    ), done AS (
        SELECT count(*) AS steps, sum(last_ns) / 1e9 AS productive_s,
               sum(repeated_ns) / 1e9 AS repeated_s, max(end_ns) AS end_ns
        FROM (SELECT max(last_ns) AS last_ns, max(all_ns - last_ns) AS repeated_ns,
                     max(end_ns) AS end_ns FROM tried GROUP BY step)
    ), spent AS (
        SELECT sum(s.own_s) / sum(s.duration_s) AS own_share,
               sum(s.blocked_s) / sum(s.duration_s) AS blocked_share,
               sum(s.transfer_s) / sum(s.duration_s) AS transfer_share
        FROM steps AS s WHERE s.run_id = training_named(run)
    ), learned AS (
        SELECT sum(tokens) AS tokens FROM (
            SELECT max(m.value) AS tokens FROM raw.sample AS m
            WHERE m.run_id = training_named(run) AND m.name = 'tokens' GROUP BY m.step
        )
    ), saved AS (
        SELECT coalesce(sum(longest_s), 0) AS checkpoint_s FROM (
            SELECT max(t.end_ns - t.start_ns) / 1e9 AS longest_s FROM raw.span AS t
            WHERE t.run_id = training_named(run) AND t.name = 'checkpoint' GROUP BY t.step
        )
    ), wall AS (
        SELECT (coalesce(r.ended_ns, d.end_ns) - r.started_ns) / 1e9 AS wall_s
        FROM raw.run AS r, done AS d WHERE r.run_id = training_named(run)
    )
    SELECT wall_s, productive_s, repeated_s, checkpoint_s,
           wall_s - productive_s - repeated_s - checkpoint_s AS other_s,
           productive_s / wall_s AS goodput, own_share, blocked_share, transfer_share, steps,
           tokens, tokens / wall_s AS tokens_per_s
    FROM wall, done, spent, learned, saved
    """,
)

KINDS = ("training", "serving")
MACROS = (STRAGGLERS, STEP_BREAKDOWN, HEATMAP, TIMELINE, GOODPUT, TTFT, SLO)


def create_macros() -> str:
    """The statements that make all macros; the views come first."""
    named = [_RUN_NAMED, *(_KIND_NAMED.format(kind=kind) for kind in KINDS)]
    tables = [f"CREATE OR REPLACE MACRO {macro.call} AS TABLE {macro.select};" for macro in MACROS]
    return "\n".join(named + tables)
