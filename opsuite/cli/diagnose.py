"""``opsuite diagnose``: who is slow, since when, why, and what it costs."""

from __future__ import annotations

from typing import Annotated

import typer

from opsuite.cli.exit_codes import ExitCode
from opsuite.output import print_data, print_json


def diagnose(
    run: Annotated[str, typer.Argument(help="Training run: id, its beginning, or last.")] = "last",
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Name the rank that holds the others up, and why.

    Exits with 0 where nothing is wrong and with 1 where something was found.
    """
    from collectors.run import RunDirectory
    from collectors.settings import Settings
    from collectors.store import Store
    from playbooks.diagnosis import diagnose as examine
    from tui.findings import render_diagnosis

    home = Settings.from_environment().home
    run_id = RunDirectory.open(home, run, kind="training").run_id
    with Store.open(home) as store:
        diagnosis = examine(store, run_id)
    if json:
        print_json(diagnosis.to_json())
    else:
        print_data(render_diagnosis(diagnosis))
    if diagnosis.findings:
        raise typer.Exit(ExitCode.FINDINGS_OR_FAILED)
