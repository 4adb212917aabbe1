"""``opsuite runs list``."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from opsuite.cli.runs.show import finite, local_time
from opsuite.output import narrate, print_data, print_json

_LIST = """
    SELECT run_id, kind, status, started_ns AS started, duration_s, world_size AS ranks,
           nullif(steps, 0) AS steps, loss, pinned, tags
    FROM runs WHERE ($1 IS NULL OR kind = $1) ORDER BY started_ns DESC
"""


def list_all(
    kind: Annotated[str | None, typer.Option(help="Only these: training or serving.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only with this tag (repeatable).")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Most runs to list; 0: all.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List all runs, the newest first."""
    from collectors.daemon.access import open_store
    from collectors.settings import Settings

    with open_store(Settings.from_environment().home) as store:
        rows = store.rows(_LIST, [kind])
    found = [listed for row in rows if _has_tags(listed := _listed(*row), tag or [])]
    shown = found[:limit] if limit else found
    if not rows and kind is None:
        narrate("there are no runs yet: start one with `opsuite launch`")
    elif len(shown) < len(found):
        narrate(f"{len(shown)} of {len(found)} runs; --limit 0 lists all")
    if json:
        print_json([row | {"started": row["started"].isoformat()} for row in shown])
    else:
        _print(shown)


def _listed(*row: Any) -> dict[str, Any]:  # noqa: ANN401 - SQL values
    import json

    run_id, kind, status, started_ns, seconds, ranks, steps, loss, pinned, tags = row
    if status == "running":
        seconds = (time.time_ns() - started_ns) / 1e9
    return {
        "run_id": run_id,
        "kind": kind,
        "status": status,
        "started": local_time(started_ns),
        "duration_s": None if seconds is None else round(seconds, 1),
        "ranks": ranks,
        "steps": steps,
        "loss": finite(loss),
        "pinned": bool(pinned),
        "tags": json.loads(tags or "[]"),
    }


def _has_tags(row: dict[str, Any], tags: list[str]) -> bool:
    return set(tags) <= set(row["tags"])


def _print(rows: list[dict[str, Any]]) -> None:
    """The table; its column of labels is there where a run has some."""
    from tui.table import render_table

    table = []
    for row in rows:
        labels = (["pinned"] if row["pinned"] else []) + row["tags"]
        facts = {key: value for key, value in row.items() if key not in ("pinned", "tags")}
        table.append(facts | {"labels": " ".join(labels)})
    columns = list(table[0]) if table else ["run_id", "kind", "status", "started"]
    if not any(row["labels"] for row in table):
        columns = [column for column in columns if column != "labels"]
    print_data(render_table(columns, [[row[column] for column in columns] for row in table]))
