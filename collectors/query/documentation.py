"""``docs/schema.md``, made of the definitions themselves.

``python -m collectors.query.documentation > docs/schema.md``
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from collectors.query.macros import MACROS
from collectors.query.session import Session
from collectors.query.views import VIEWS
from collectors.store.snapshot import Snapshot
from collectors.store.tables import BULK, SMALL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from collectors.store.tables import StoredTable

EXAMPLES = (
    (
        "Which runs there are",
        "SELECT run_id, kind, status, steps, loss FROM runs ORDER BY started_ns DESC",
    ),
    ("Which rank is slow, in the newest training run", "FROM stragglers('last') LIMIT 5"),
    ("Where the time of a step goes", "FROM step_breakdown('last')"),
    (
        "The slowest steps, and who waited for whom in them",
        """
SELECT step, rank, duration_s, own_s, blocked_s, transfer_s
FROM steps WHERE run_id = training_named('last')
ORDER BY max(duration_s) OVER (PARTITION BY step) DESC, step, rank LIMIT 32""",
    ),
    (
        "99th percentile of a phase, by rank",
        """
SELECT rank, quantile_cont(duration_s, 0.99) AS p99_s, count(*) AS spans
FROM spans WHERE run_id = training_named('last') AND name = 'forward'
GROUP BY rank ORDER BY p99_s DESC""",
    ),
    (
        "Waiting in collectives that is beyond any doubt about the clocks",
        """
SELECT rank, host, sum(blocked_s) AS blocked_s, max(clock_error_s) AS clock_error_s
FROM collectives WHERE run_id = training_named('last') AND blocked_s > clock_error_s
GROUP BY rank, host ORDER BY blocked_s DESC""",
    ),
    (
        "Tokens a second, minute by minute",
        """
SELECT time_bucket(INTERVAL 1 MINUTE, second) AS minute,
       sum(total) / (epoch(max(second)) - epoch(min(second)) + 1) AS tokens_per_s
FROM rollups WHERE run_id = training_named('last') AND kind = 'sample' AND name = 'tokens'
GROUP BY minute ORDER BY minute""",
    ),
    (
        "Pipeline stages against each other",
        """
SELECT r.pp, median(s.own_s) AS own_s, median(s.blocked_s) AS blocked_s
FROM steps AS s JOIN ranks AS r USING (run_id, rank)
WHERE run_id = training_named('last') GROUP BY r.pp ORDER BY r.pp""",
    ),
    (
        "Whose heart has stopped: the longest silent first",
        """
SELECT rank, role, host, pid, epoch(now()) - max(at_ns) / 1e9 AS silent_s
FROM heartbeats WHERE run_id = run_named('last')
GROUP BY rank, role, host, pid ORDER BY silent_s DESC""",
    ),
    (
        "A server's percentiles",
        "FROM ttft('last')",
    ),
    (
        "How many of its requests met their objectives",
        "FROM slo('last', ttft_s := 0.5, tpot_s := 0.05)",
    ),
)

_HEAD = """\
# What can be asked

`opsuite query "SELECT ..."` answers from these views, live and after the run. Durations are
seconds, instants (`*_ns`) are wall-clock nanoseconds, sizes are bytes, and what is missing is NULL.
The times of ranks on other hosts are moved onto one clock; where times of two hosts are compared,
the bound of the error stands beside the result.

*Made by `python -m collectors.query.documentation > docs/schema.md`; a test holds it up to date.*
"""
_MACROS = """\
## Functions

Write them after FROM. `run` is a run's id, a beginning of it that no other has, or `'last'`: the
newest serving run for `ttft` and `slo`, the newest training run for the others (and where there is
none of that kind, the newest of all). For a WHERE, `run_named('last')` gives the id of the newest
run of any kind, `training_named('last')` and `serving_named('last')` that of their kind.
"""
_STORED = """\
## What is stored

The views are made of these tables, `raw.<name>`. They may change from one version to the next:
read the views.
"""


def documentation() -> str:
    """The whole page, as Markdown."""
    with Session(threads=1) as session:
        session.show(Snapshot(version=1, parquet="/nowhere"))
        return "\n".join(_page(session))


def _page(session: Session) -> Iterator[str]:
    yield _HEAD
    yield "## Views\n"
    for view in VIEWS:
        yield f"### {view.name}\n\n{_sentence(view.about)}\n"
        yield from _columns(_described(session, view.name))
    yield _MACROS
    for macro in MACROS:
        yield f"### {macro.call}\n\n{_sentence(macro.about)}\n"
        yield from _columns(_described(session, f"{macro.name}({macro.example})"))
    yield "## Examples\n"
    for about, sql in EXAMPLES:
        yield f"{about}:\n\n```sql\n{sql.strip()}\n```\n"
    yield _STORED
    for table in (*SMALL.values(), *BULK.values()):
        yield f"### raw.{table.name}\n\n{_sentence(table.about)}\n"
        yield from _columns(_stored(session, table))


def _described(session: Session, relation: str) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in session.rows(f"DESCRIBE FROM {relation}")]


def _stored(session: Session, table: StoredTable) -> list[tuple[str, str]]:
    names = ", ".join(f'"{name}"' for name in table.schema.names)
    rows = session.rows(f"DESCRIBE SELECT {names} FROM raw.{table.name}")  # noqa: S608 - our names
    return [(row[0], row[1]) for row in rows]


def _columns(columns: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield "| column | type |\n| --- | --- |"
    yield from (f"| {name} | {kind} |" for name, kind in columns)
    yield ""


def _sentence(about: str) -> str:
    return about[0].upper() + about[1:] + "."


if __name__ == "__main__":
    sys.stdout.write(documentation())
