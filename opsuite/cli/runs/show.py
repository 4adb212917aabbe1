"""``opsuite runs show``: how one run went."""

from __future__ import annotations

import math
import shlex
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opsuite.output import print_data, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from collectors.labels import Labels
    from collectors.query.source import Source
    from collectors.run import RunDirectory

_FACTS = "SELECT steps, dropped, damaged FROM runs WHERE run_id = ?"
_LEARNING = """
    SELECT sum(tokens) / sum(duration_s) FILTER (tokens IS NOT NULL) AS tokens_per_s,
           arg_min(loss, step) AS first_loss, arg_max(loss, step) AS last_loss
    FROM steps WHERE run_id = ?
"""
_RANKS = "SELECT rank, host, pid FROM ranks WHERE run_id = ? ORDER BY rank"
_PHASES = """
    SELECT phase, rank, median(duration_s), median(own_s), median(blocked_s),
           median(transfer_s)
    FROM phases WHERE run_id = ? GROUP BY phase, rank
    ORDER BY min(min(start_ns)) OVER (PARTITION BY phase), phase, rank
"""
_PHASE_COLUMNS = ("phase", "rank", "duration_s", "own_s", "blocked_s", "transfer_s")
_REQUESTS = """
    SELECT count(*), count(*) FILTER (reason IN ('stop', 'length')), median(ttft_s),
           median(tpot_s), sum(output_tokens)
    FROM requests WHERE run_id = ?
"""
_REQUEST_COLUMNS = ("arrived", "answered", "median_ttft_s", "median_tpot_s", "output_tokens")


def show(
    run: Annotated[str, typer.Argument(help="Run id, its beginning, or `last`.")] = "last",
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show how a run was started, how far it came, and where its time goes."""
    from collectors.daemon.access import open_store
    from collectors.labels import read_labels
    from collectors.run import RunDirectory
    from collectors.settings import Settings

    home = Settings.from_environment().home
    directory = RunDirectory.open(home, run)
    labels = read_labels(directory.path)
    with open_store(home) as store:
        summary = _summary(directory, labels, store)
    if json:
        print_json(summary)
    else:
        print_data(_render(summary))


def local_time(wall_ns: int) -> datetime:
    """A wall-clock instant as the user's clock shows it, to the second."""
    return datetime.fromtimestamp(wall_ns // 10**9, tz=UTC).astimezone()


def finite(value: float | None) -> float | None:
    """None for NaN and infinities, which JSON does not know."""
    return value if value is not None and math.isfinite(value) else None


def _summary(directory: RunDirectory, labels: Labels, store: Source) -> dict[str, Any]:
    manifest = directory.manifest
    parameters = [directory.run_id]
    [(steps, dropped, damaged)] = store.rows(_FACTS, parameters)
    [(tokens_per_s, first_loss, last_loss)] = store.rows(_LEARNING, parameters)
    ended_ns = time.time_ns() if manifest.status == "running" else manifest.ended_ns
    return {
        "run_id": manifest.run_id,
        "kind": manifest.kind,
        "status": manifest.status,
        "exit_code": manifest.exit_code,
        "command": manifest.command,
        "git_commit": manifest.git_commit,
        "version": manifest.version,
        "notes": manifest.notes,
        **labels.to_json(),
        "started_ns": manifest.started_ns,
        "duration_s": None if ended_ns is None else (ended_ns - manifest.started_ns) / 1e9,
        "world_size": manifest.world_size,
        "steps": steps,
        "tokens_per_s": tokens_per_s,
        "loss": {"first": finite(first_loss), "last": finite(last_loss)},
        "dropped": dropped,
        "damaged": damaged,
        "ranks": _dictionaries(("rank", "host", "pid"), store.rows(_RANKS, parameters)),
        "phases": _dictionaries(_PHASE_COLUMNS, store.rows(_PHASES, parameters)),
        "requests": _dictionaries(_REQUEST_COLUMNS, store.rows(_REQUESTS, parameters))[0],
        "config": manifest.config,
        "directory": str(directory.path),
        "logs": _entries(directory.logs),
        "checkpoints": _entries(directory.checkpoints),
    }


def _dictionaries(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in rows]


def _entries(directory: Path) -> list[str]:
    return sorted(str(path) for path in directory.iterdir()) if directory.is_dir() else []


_SHOWN = ("status", "exit_code", "git_commit", "version", "notes", "world_size")


def _render(summary: dict[str, Any]) -> str:
    """The summary for people: facts, configuration, phases, files."""
    from collectors.toml import toml_document
    from tui.table import format_cell, render_table

    loss = summary["loss"]
    facts = [("run", summary["run_id"]), ("command", shlex.join(summary["command"]))]
    facts += [(name, format_cell(summary[name])) for name in _SHOWN if summary[name] != ""]
    facts += [("pinned", "yes")] if summary["pinned"] else []
    facts += [("tags", " ".join(summary["tags"]))] if summary["tags"] else []
    facts += [
        ("started", format_cell(local_time(summary["started_ns"]))),
        ("duration_s", format_cell(summary["duration_s"])),
    ]
    if summary["steps"]:
        facts += [
            ("steps", str(summary["steps"])),
            ("tokens_per_s", format_cell(summary["tokens_per_s"])),
            ("loss", f"{format_cell(loss['first'])} -> {format_cell(loss['last'])}"),
        ]
    if summary["requests"]["arrived"]:
        facts += [(name, format_cell(value)) for name, value in summary["requests"].items()]
    facts += [(name, str(summary[name])) for name in ("dropped", "damaged") if summary[name]]
    parts = ["\n".join(f"{name:<15}{value}" for name, value in facts)]
    if summary["config"]:
        parts.append(f"configuration\n{_indented(toml_document(summary['config']))}")
    if summary["phases"]:
        rows = [_in_milliseconds(phase) for phase in summary["phases"]]
        columns = [name.replace("_s", " ms") for name in _PHASE_COLUMNS]
        table = render_table(columns, rows).rstrip()
        parts.append(f"median of each phase\n{_indented(table)}")
    files = [summary["directory"], *summary["logs"], *summary["checkpoints"]]
    parts.append("files\n" + _indented("\n".join(files)))
    return "\n\n".join(parts)


def _in_milliseconds(phase: dict[str, Any]) -> list[Any]:
    name, rank, *times = phase.values()
    return [name, rank, *(None if s is None else round(s * 1e3, 2) for s in times)]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.strip().splitlines())
