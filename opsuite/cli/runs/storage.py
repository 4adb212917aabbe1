"""``opsuite runs du|rm|gc|rebuild``: what runs take of the disk, and giving it back."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collectors.errors import DataError, TimedOut, UsageError
from opsuite.cli.exit_codes import ExitCode
from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from collectors.retention.policy import Plan, RetentionConfig

_Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_PARTS = ("spool", "parquet", "logs", "checkpoints", "other", "total")
_LOCK_S = 3.0


def du(json: _Json = False) -> None:
    """Show how many bytes each run takes, and the store beside them."""
    from collectors.retention.usage import measure_run, size_of
    from collectors.run import list_runs
    from collectors.settings import Settings
    from collectors.size import format_size
    from tui.table import render_table

    home = Settings.from_environment().home
    rows = []
    for run in list_runs(home):
        usage = measure_run(home, run.run_id)
        rows.append({"run_id": run.run_id, **{part: getattr(usage, part) for part in _PARTS}})
    rows.sort(key=lambda row: row["total"], reverse=True)
    shared = {name: size_of(home / name) for name in ("hot", "cache", "bench")}
    shared["index"] = sum(size_of(path) for path in home.glob("store.duckdb*"))
    total = sum(row["total"] for row in rows) + sum(shared.values())
    if json:
        print_json({"runs": rows, "shared": shared, "total": total})
        return
    table = [[row["run_id"], *(format_size(row[part]) for part in _PARTS)] for row in rows]
    table += [[f"({name})", *[""] * 5, format_size(size)] for name, size in shared.items()]
    table.append(["all", *[""] * 5, format_size(total)])
    print_data(render_table(["run_id", *_PARTS], table))


def rm(
    runs: Annotated[list[str], typer.Argument(help="Run ids, or their beginnings.")],
    yes: _Yes = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also one that says it runs, or cannot be read.")
    ] = False,
) -> None:
    """Remove runs with all that was recorded, their logs and checkpoints."""
    from collectors.retention.removal import remove_run
    from collectors.retention.usage import measure_run
    from collectors.settings import Settings
    from collectors.size import format_size

    home = Settings.from_environment().home
    run_ids = list(dict.fromkeys(_removable(home, reference, force) for reference in runs))
    for run_id in run_ids:
        narrate(f"{run_id}: {format_size(measure_run(home, run_id).total)}")
    _confirm(f"remove {len(run_ids)} run(s)?", yes)
    for run_id in run_ids:
        remove_run(home, run_id, force=force)
        narrate(f"{run_id} is removed")


def gc(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    keep_days: Annotated[
        float | None, typer.Option(min=0, help="Remove what ended earlier; 0: whatever its age.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Remove the oldest beyond this: 50GB.")
    ] = None,
    run_cap: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Thin runs whose rows take more: 10GB.")
    ] = None,
    yes: _Yes = False,
    json: _Json = False,
) -> None:
    """Remove old runs by age and size, and thin those that are too long.

    Without options it does what [retention] in collect.toml says. Pinned and running runs stay.
    """
    from collectors.retention.keeper import examine
    from collectors.retention.policy import plan_retention
    from collectors.retention.removal import sweep
    from collectors.settings import Settings

    home = Settings.from_environment().home
    given = {"keep_days": keep_days, "max_size": max_size, "run_cap": run_cap}
    config = _retention(home, {key: value for key, value in given.items() if value is not None})
    plan = plan_retention(examine(home, config), config, time.time_ns())
    _tell_plan(plan, json)
    if dry_run:
        return
    sweep(home)
    if plan.removals or plan.thinnings:
        _confirm(f"remove {len(plan.removals)} and thin {len(plan.thinnings)} run(s)?", yes)
        _carry_out(home, plan)


def rebuild() -> None:
    """Make store.duckdb anew from what is sealed and spooled."""
    from collectors.daemon.client import DaemonClient
    from collectors.settings import Settings
    from collectors.store.sole_collector import sole_collector
    from opsuite.collecting import start_collecting

    settings = Settings.from_environment()
    home = settings.home
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    client = DaemonClient.find(home)
    if client is not None:
        narrate("the collector is stopped for it")
        with client:
            client.stop()
    with sole_collector(home, rebuild=True) as collector:
        runs = len(collector.snapshot.run_ids)
    narrate(f"the store is made anew: {runs} run(s)")
    if client is not None:
        start_collecting(settings)


def _removable(home: Path, reference: str, force: bool) -> str:
    """The run that is meant, if it may go."""
    from collectors.labels import read_labels
    from collectors.run import RunDirectory

    try:
        run = RunDirectory.open(home, reference)
        labels = read_labels(run.path)
    except DataError:
        if force and (home / "runs" / reference).is_dir():
            return reference
        raise
    if labels.pinned:
        raise UsageError(
            f"the run {run.run_id} is pinned",
            where=str(run.path),
            remedy=f"unpin it first: opsuite runs unpin {run.run_id}",
        )
    if run.manifest.status == "running" and not force:
        raise UsageError(
            f"the run {run.run_id} is running",
            where=f"process {run.manifest.pid} on {run.manifest.host}",
            remedy="stop it first, or give --force if you know that it is not",
        )
    return run.run_id


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked", where="stdin", remedy="give --yes")
    typer.confirm(question, abort=True, err=True)


def _retention(home: Path, given: dict[str, Any]) -> RetentionConfig:
    from collectors.configuration import resolve
    from collectors.retention.keeper import load_retention
    from collectors.retention.policy import RetentionConfig

    stored = load_retention(home).model_dump()
    return resolve(RetentionConfig, [("collect.toml", stored), ("the options", given)]).value


def _tell_plan(plan: Plan, json: bool) -> None:
    from dataclasses import asdict

    from collectors.size import format_size
    from tui.table import render_table

    if json:
        print_json(asdict(plan))
    else:
        rows = [[one.run_id, "remove", format_size(one.bytes), one.why] for one in plan.removals]
        rows += [
            [one.run_id, "thin", format_size(one.bytes), f"{one.rows} rows, their sums stay"]
            for one in plan.thinnings
        ]
        if rows:
            print_data(render_table(["run_id", "what", "bytes", "why"], rows))
        else:
            narrate("nothing is to go")
    if plan.over_bytes:
        narrate(f"still {format_size(plan.over_bytes)} too much: the rest runs or is pinned")


def _carry_out(home: Path, plan: Plan) -> None:
    from collectors.retention.keeper import apply_plan
    from collectors.store.sole_collector import sole_collector

    def do(expire: Callable[..., int] | None) -> None:
        failures = apply_plan(home, plan, expire)
        for failure in failures:
            narrate(f"not done: {failure}")
        if failures:
            raise typer.Exit(ExitCode.FINDINGS_OR_FAILED)

    if not plan.thinnings:
        return do(None)
    try:
        with sole_collector(home, timeout_s=_LOCK_S) as collector:
            return do(collector.thin)
    except TimedOut:
        narrate("thinning is left to the collector, which has the store")
        return do(None)
