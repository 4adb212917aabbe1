"""What stays of an attached look: its findings, and a bundle of its run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.bundle.writer import SUFFIX, write_bundle
from collectors.daemon.access import open_store
from collectors.daemon.client import DaemonClient
from collectors.store.sole_collector import sole_collector
from playbooks.diagnosis import Diagnosis
from playbooks.publication import publish

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.run import RunDirectory
    from playbooks.finding import Finding


def publish_finding(home: Path, run: RunDirectory, finding: Finding, wall_s: float) -> None:
    """Store the finding with the run.

    Raises:
        OpsuiteError: the store cannot be read, or the run's spool not be written.
    """
    ranks = run.manifest.world_size
    diagnosis = Diagnosis(
        run_id=run.run_id, findings=(finding,), steps=0, ranks=ranks, wall_s=wall_s
    )
    with open_store(home) as store:
        publish(diagnosis, run, store)


def bundle(home: Path, run: RunDirectory) -> Path:
    """Write all that is recorded of the run into one file in its directory.

    Raises:
        OpsuiteError: the store is in use, or the file cannot be written.
    """
    path = run.path / f"{run.run_id}{SUFFIX}"
    client = DaemonClient.find(home)
    if client is not None:
        with client:
            client.dump(run.run_id, path)
    else:
        with sole_collector(home) as collector:
            collector.seal(force=True)
            write_bundle(home, run, path)
    return path
