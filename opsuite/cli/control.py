"""``opsuite evict|pause|resume|stop|restart``: what people may ask of a job that is running."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from opsuite.output import narrate, print_json

Run = Annotated[str, typer.Argument(help="Run: id, its beginning, or last.")]
Why = Annotated[str, typer.Option(help="For the record.")]
Json = Annotated[bool, typer.Option("--json", help="Print the job's status as JSON.")]


def evict(
    run: Annotated[str, typer.Argument(help="Run: id, its beginning, or last.")],
    host: Annotated[str, typer.Argument(help="The host, as the job calls it.")],
    why: Why = "",
    json: Json = False,
) -> None:
    """Leave a host out, for ever; the job goes on on another."""
    _ask("evict", run, host=host, why=why, json=json)


def pause(run: Run = "last", why: Why = "", json: Json = False) -> None:
    """End a job's ranks, and keep their state in memory."""
    _ask("pause", run, why=why, json=json)


def resume(run: Run = "last", why: Why = "", json: Json = False) -> None:
    """Let a paused job go on."""
    _ask("resume", run, why=why, json=json)


def stop(run: Run = "last", why: Why = "", json: Json = False) -> None:
    """End a job; `opsuite launch --resume` goes on from its last checkpoint."""
    _ask("stop", run, why=why, json=json)


def restart(run: Run = "last", why: Why = "", json: Json = False) -> None:
    """Start a job's ranks anew, from the newest good state."""
    _ask("restart", run, why=why, json=json)


def status(run: Run = "last", json: Json = False) -> None:
    """Say what a job that recovers from faults is doing just now."""
    _ask("status", run, json=json)


def _ask(request: str, run: str, *, json: bool, host: str = "", why: str = "") -> None:
    from collectors.run import RunDirectory
    from collectors.settings import Settings
    from engine.supervision.control import ask

    directory = RunDirectory.open(Settings.from_environment().home, run, kind="training")
    found = ask(directory.path, request, host=host, why=why)
    if json:
        print_json({"run_id": directory.run_id, **found})
    else:
        _tell(directory.run_id, found)


def _tell(run_id: str, found: dict[str, Any]) -> None:
    from opsuite.output import print_data
    from tui.table import render_table

    narrate(
        f"{run_id}: {found['phase']}, attempt {found['attempt']}, step {found['acknowledged']}"
        f" is safe, {found['effective']:.1%} of the time productive"
    )
    places = found["places"]
    rows = [
        (
            each["host"],
            "here" if each["here"] else "away",
            ", ".join(map(str, places.get(each["host"], []))) or "stands by",
            each["blocked"] or each["suspect"],
        )
        for each in found["hosts"]
    ]
    print_data(render_table(["host", "executor", "ranks", "left out, or suspected"], rows))
