"""The end of a run: what the playbooks make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError
from opsuite.output import narrate

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.run import RunDirectory
    from playbooks.diagnosis import Diagnosis


def diagnose_and_tell(home: Path, run: RunDirectory) -> Diagnosis | None:
    """Diagnose a run, store the findings with it, and tell them on stderr.

    None, with a warning, where it cannot be diagnosed: that the run has ended counts more.
    """
    from collectors.daemon.access import open_store
    from playbooks.diagnosis import diagnose
    from playbooks.publication import publish
    from tui.findings import render_diagnosis

    try:
        with open_store(home) as store:
            diagnosis = diagnose(store, run.run_id)
            narrate(render_diagnosis(diagnosis))
            publish(diagnosis, run, store)
    except OpsuiteError as error:
        narrate(f"warning: {run.run_id} could not be diagnosed: {error}")
        return None
    return diagnosis
