"""``opsuite run -- COMMAND``: anybody's trainer, recorded and watched without touching it."""

from __future__ import annotations

import os
from typing import Annotated

import typer


def run(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND...", help="torchrun, python, bash, accelerate ..."),
    ] = None,
    *,
    name: Annotated[str | None, typer.Option(help="Of the run. [default: the script's]")] = None,
    notes: Annotated[str, typer.Option(help="Kept with the run.")] = "",
    capture: Annotated[
        bool, typer.Option(help="Keep all output as logs, and show each line with its rank.")
    ] = True,
    watchdog: Annotated[bool, typer.Option(help="Say who never came when the run hangs.")] = True,
) -> None:
    """Run a training command that knows nothing of opsuite, and record its ranks.

    Every Python process below it that trains with torch becomes a watched rank: steps, waiting for
    data, forward, backward, optimizer, collectives. The output of ranks goes into logs and is shown
    with their number. A failed command ends with the rank that failed first and what it said; one
    that ends well with a diagnosis. Ctrl-C is the command's; where it runs on, a second one, after
    ten seconds, ends all its processes. Exits with 0, 1 (it failed) or 130 (it was interrupted).
    """
    from collectors.settings import Settings
    from opsuite.running.session import CommandOptions, run_command

    code = run_command(
        command or [],
        settings=Settings.from_environment(),
        environ=os.environ,
        options=CommandOptions(name=name or "", notes=notes, capture=capture, watchdog=watchdog),
    )
    if code:
        raise typer.Exit(code)
