"""What the watchdog found out becomes events of the run, and a bundle beside it."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import TYPE_CHECKING

from collectors.annotation import annotate
from collectors.errors import OpsuiteError
from collectors.samplers.stack_entries import fitted, stack_entries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from collectors.run import RunDirectory
    from opsuite.watchdog.evidence import Evidence

ROLE = "watchdog"
_BUNDLE_S = 60.0


def record_stacks(run: RunDirectory, evidence: Evidence) -> None:
    """Store the stacks that were read; StorageError where the spool cannot be written."""
    entries = [
        {"role": "trainer", "rank": evidence.ranks[process.rank_pid], **entry}
        for process in evidence.processes
        for entry in stack_entries(process)
    ]
    annotate(run, ROLE, "stack", [fitted(entry) for entry in entries])


def record_flights(run: RunDirectory, evidence: Evidence) -> None:
    """Store where flight recorders saw each rank last, an event a group; StorageError likewise."""
    annotate(run, ROLE, "flight_recorder", [asdict(entry) for entry in evidence.flights])


class Bundles:
    """Bundles of a run, each written behind the watchdog's back.

    Args:
        failed: told in one line what went wrong.
    """

    def __init__(self, home: Path, run: RunDirectory, failed: Callable[[str], None]) -> None:
        self._home = home
        self._run = run
        self._failed = failed
        self._number = 0
        self._threads: list[threading.Thread] = []

    def next(self) -> Path:
        """Where the next one will lie."""
        from collectors.bundle.writer import SUFFIX

        while True:
            self._number += 1
            path = self._run.path / f"hang-{self._number}{SUFFIX}"
            if not path.exists():
                return path

    def begin(self, path: Path) -> None:
        """Begin to write one."""
        thread = threading.Thread(target=self._write, args=(path,), name="bundle", daemon=True)
        self._threads.append(thread)
        thread.start()

    def finish(self) -> None:
        """Wait for those that are being written."""
        for thread in self._threads:
            thread.join(_BUNDLE_S)

    def _write(self, path: Path) -> None:
        try:
            write_bundle_of(self._home, self._run, path)
        except OpsuiteError as error:
            self._failed(f"no bundle was written: {error.what}")
        except Exception as error:  # noqa: BLE001 - of a thread: told, and the watch goes on
            self._failed(f"no bundle was written: {error!r}")


def write_bundle_of(home: Path, run: RunDirectory, path: Path) -> None:
    """Have the collector write it, or write it here where none runs.

    Raises:
        OpsuiteError: it cannot be written.
    """
    from collectors.bundle.writer import write_bundle
    from collectors.daemon.client import DaemonClient
    from collectors.store.sole_collector import sole_collector

    client = DaemonClient.find(home)
    if client is not None:
        with client:
            client.dump(run.run_id, path)
        return
    with sole_collector(home) as collector:
        collector.seal(force=True)
        write_bundle(home, run, path)
