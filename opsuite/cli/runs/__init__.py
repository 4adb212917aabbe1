"""``opsuite runs``: which runs there are, how one went, and what of them is kept."""

from __future__ import annotations

import typer

from opsuite.cli import control
from opsuite.cli.runs import costs, labelling, listing, show, storage, transfer

runs = typer.Typer(no_args_is_help=True, help="List, show, label, keep, remove and move runs.")
runs.command("list")(listing.list_all)
runs.command("show")(show.show)
runs.command("status")(control.status)
runs.command("costs")(costs.costs)
runs.command("pin")(labelling.pin)
runs.command("unpin")(labelling.unpin)
runs.command("tag", context_settings=labelling.SIGNED)(labelling.tag)
runs.command("du")(storage.du)
runs.command("rm")(storage.rm)
runs.command("gc")(storage.gc)
runs.command("rebuild")(storage.rebuild)
runs.command("export")(transfer.export)
runs.command("import")(transfer.import_)
