"""``opsuite doctor``: what this machine has and lacks, and what follows."""

from __future__ import annotations

from typing import Annotated

import typer

from opsuite.cli.exit_codes import ExitCode
from opsuite.output import print_data, print_json


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Say what this machine has and lacks, and what follows.

    Exits with 1 only where nothing would work.
    """
    from collectors.settings import Settings
    from playbooks.checks.capability import Status, probe_machine
    from tui.table import render_table

    capabilities = probe_machine(Settings.from_environment().home)
    if json:
        print_json({"capabilities": [capability.to_json() for capability in capabilities]})
    else:
        rows = [(c.name, str(c.status), c.detail, c.consequence) for c in capabilities]
        print_data(render_table(["what", "status", "found", "what follows"], rows))
    if any(capability.status is Status.BROKEN for capability in capabilities):
        raise typer.Exit(ExitCode.FINDINGS_OR_FAILED)
