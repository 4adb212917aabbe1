"""Under the views: the stored tables as relations ``raw.<table>``, on the run's common clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.store.tables import BULK, EVENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collectors.store.tables import StoredTable

_HIVE_TYPES = "{'run': VARCHAR, 'host': VARCHAR, 'hour': VARCHAR}"


def hot_name(table: StoredTable) -> str:
    """What a bulk table's hot rows are registered as."""
    return f"hot_{table.name}"


def create_relation(table: StoredTable, parquet: Sequence[str]) -> str:
    """The statement that makes ``raw.<table>`` of sealed files and of what is hot."""
    stored = [f'"{name}"' for name in table.schema.names if name != "run_id"]
    parts = [f"SELECT run_id, {', '.join(stored)} FROM {hot_name(table)}"]  # noqa: S608 - our names
    if parquet:
        files = ", ".join(quoted(path) for path in parquet)
        parts.append(
            f"SELECT run AS run_id, {', '.join(stored)} FROM read_parquet([{files}],"  # noqa: S608
            f" hive_partitioning = true, hive_types = {_HIVE_TYPES})"
        )
    return f"CREATE OR REPLACE VIEW raw.{table.name} AS {' UNION ALL '.join(parts)};"


def quoted(text: str) -> str:
    """As an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def create_inner_views(*, clocked: bool) -> str:
    """The statements that make what the public views are written upon.

    Args:
        clocked: whether any host's clock is to be corrected. Where none is, times stay plain
            columns, so that a filter on them reaches the statistics of the sealed files.
    """
    made = [("raw.clocked_process", _CLOCKED_PROCESS)]
    made += [_aligned(name, clocked=clocked) for name in ("span", "collective", "sample", "event")]
    made += [
        ("raw.blocked_collective", _BLOCKED_COLLECTIVE),
        ("raw.part", _PART),
        ("raw.split_span", _SPLIT_SPAN),
    ]
    made += [("raw.hot_rollup", " UNION ALL ".join(_HOT_ROLLUPS))]
    return "\n".join(f"CREATE OR REPLACE VIEW {name} AS {select};" for name, select in made)


def aligned(column: str, *, clocked: bool) -> str:
    """A time column ``t.<column>`` on the run's common clock, by its process ``p``."""
    if not clocked:
        return f"t.{column}"
    drift = f"((t.{column} - p.clock_at_ns) * p.clock_drift)::BIGINT"
    return f"(t.{column} - p.clock_offset_ns - {drift})"


def _aligned(name: str, *, clocked: bool) -> tuple[str, str]:
    columns = [
        aligned(column, clocked=clocked) + f" AS {column}" if column in _TIMES else f't."{column}"'
        for column in BULK[name].schema.names
    ]
    if name == EVENT.name:
        columns.append("CASE WHEN json_valid(attributes) THEN attributes END AS document")
    return f"raw.aligned_{name}", (
        f"SELECT {', '.join(columns)}, p.rank, p.host, p.role, p.pid, p.clock, p.only_one,"  # noqa: S608 - our names
        " p.clock_error_ns"
        f" FROM raw.{name} AS t JOIN raw.clocked_process AS p USING (process)"
    )


_TIMES = {"start_ns", "end_ns", "at_ns"}

_CLOCKED_PROCESS = """
    SELECT *, hash(host, boot_id) AS clock,
           count(*) OVER (PARTITION BY run_id, rank) = 1 AS only_one
    FROM raw.process
"""

# A rank that was started again repeats its sequence numbers; distinct ranks are dear to count, so
# only those of such ranks are.
_BLOCKED_COLLECTIVE = """
    WITH arrival AS (
        SELECT run_id, "group", name, sequence, step, max(start_ns) AS last_ns,
               count(*) AS arrivals,
               count(*) FILTER (only_one) + count(DISTINCT rank) FILTER (NOT only_one) AS ranks,
               min(clock) = max(clock) AS one_clock, max(clock_error_ns) AS error_ns,
               count(clock_error_ns) AS errors
        FROM raw.aligned_collective
        GROUP BY run_id, "group", name, sequence, step
    )
    SELECT c.*,
           CASE WHEN a.arrivals = c.group_size AND a.ranks = c.group_size
                THEN least(a.last_ns - c.start_ns, c.end_ns - c.start_ns) END AS blocked_ns,
           CASE WHEN a.one_clock THEN 0
                WHEN a.errors = a.arrivals THEN c.clock_error_ns + a.error_ns END
               AS blocked_error_ns
    FROM raw.aligned_collective AS c JOIN arrival AS a
      ON a.run_id = c.run_id AND a."group" = c."group" AND a.name = c.name
     AND a.sequence = c.sequence AND a.step = c.step
"""

# Spans of steps (a dot in its name makes a span a detail, and no phase), and in rows of their own
# the collectives inside of each (same process and step): summed by process, step and name they give
# a phase's time and what of it the collectives took.
_PART = """
    SELECT run_id, process, rank, step, name, start_ns, end_ns,
           (end_ns - start_ns)::DOUBLE AS duration_ns, 0::DOUBLE AS collective_ns,
           0::DOUBLE AS blocked_ns, false AS unknown
    FROM raw.aligned_span WHERE step >= 0 AND NOT contains(name, '.')
    UNION ALL
    SELECT s.run_id, s.process, s.rank, s.step, s.name, NULL, NULL, 0, c.end_ns - c.start_ns,
           c.blocked_ns, c.blocked_ns IS NULL
    FROM raw.aligned_span AS s JOIN raw.blocked_collective AS c
      ON c.run_id = s.run_id AND c.process = s.process AND c.step = s.step
     AND c.start_ns >= s.start_ns AND c.end_ns <= s.end_ns
    WHERE s.step >= 0 AND NOT contains(s.name, '.')
"""

_SPLIT_SPAN = """
    SELECT run_id, process, rank, step, name, min(start_ns) AS start_ns, max(end_ns) AS end_ns,
           sum(duration_ns) AS duration_ns, sum(collective_ns) AS collective_ns,
           CASE WHEN NOT bool_or(unknown) THEN sum(blocked_ns) END AS blocked_ns
    FROM raw.part GROUP BY run_id, process, rank, step, name
"""


def _hot_rollup(name: str, time: str, amount: str) -> str:
    return (
        f"SELECT run_id, process, '{name}' AS kind, name, {time} // 1000000000 AS second,"  # noqa: S608
        f" count(*) AS count, sum({amount}) AS total, min({amount}) AS least,"
        f" max({amount}) AS most FROM {hot_name(BULK[name])} GROUP BY ALL"
    )


_DURATION = "((end_ns - start_ns) / 1e9)"
_HOT_ROLLUPS = (
    _hot_rollup("span", "start_ns", _DURATION),
    _hot_rollup("collective", "start_ns", _DURATION),
    _hot_rollup("sample", "at_ns", "value"),
    _hot_rollup("event", "at_ns", "value"),
)
