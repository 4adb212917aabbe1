"""``opsuite diagnose``: who is slow, since when, why, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from collectors.errors import OpsuiteError
from opsuite.cli.exit_codes import ExitCode
from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from collectors.query.source import Source
    from collectors.run import RunDirectory
    from playbooks.diagnosis import Diagnosis


def diagnose(
    run: Annotated[str, typer.Argument(help="Training run: id, its beginning, or last.")] = "last",
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Name the rank that holds the others up, and why.

    Exits with 1 where something was found that is at least likely, and with 0 otherwise.
    """
    from collectors.daemon.access import open_store
    from collectors.run import RunDirectory
    from collectors.settings import Settings
    from playbooks.diagnosis import diagnose as examine
    from tui.findings import render_diagnosis

    home = Settings.from_environment().home
    directory = RunDirectory.open(home, run, kind="training")
    with open_store(home) as store:
        diagnosis = examine(store, directory.run_id)
        _publish(diagnosis, directory, store)
    if json:
        print_json(diagnosis.to_json())
    else:
        print_data(render_diagnosis(diagnosis))
    if diagnosis.sure:
        raise typer.Exit(ExitCode.FINDINGS_OR_FAILED)


def _publish(diagnosis: Diagnosis, run: RunDirectory, store: Source) -> None:
    """Store the findings with the run; that they are found counts more than that they are kept."""
    from playbooks.publication import publish

    try:
        publish(diagnosis, run, store)
    except OpsuiteError as error:
        narrate(f"the findings are not stored: {error.what}")
