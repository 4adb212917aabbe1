"""``opsuite runs costs``: what recovering runs have shown of their costs."""

from __future__ import annotations

from typing import Annotated

import typer

from opsuite.output import print_json


def costs(
    runs: Annotated[list[str], typer.Argument(help="Runs: ids, their beginnings, or last.")],
) -> None:
    """Measure what steps, saving, noticing and starting again cost in runs that recovered.

    Printed as the JSON that `opsuite simulate train --costs FILE` reads: measure a drill, then
    predict a longer job.
    """
    from collectors.daemon.access import open_store
    from collectors.run import RunDirectory
    from collectors.settings import Settings
    from opsuite.measured_costs import measured_costs

    home = Settings.from_environment().home
    directories = [RunDirectory.open(home, run, kind="training") for run in runs]
    with open_store(home) as store:
        print_json(measured_costs(store, directories))
