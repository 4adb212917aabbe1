"""What the daemon itself has to say of a run goes into its spool, like everything else."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from collectors.clock import host_name
from collectors.level import Level, declare
from collectors.recorder import Identity, open_recorder

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from collectors.recorder import Recorder
    from collectors.run import RunDirectory

ROLE = "collector"
declare(Level.TRIGGER, "stack")


class Journal:
    """One recorder a run, of the role "collector"; safe under threads.

    An open recorder would keep its run live for ever: :meth:`keep` closes those of others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recorders: dict[str, Recorder] = {}

    def record(self, run: RunDirectory, name: str, attributes: Mapping[str, Any]) -> None:
        """Record an event of ``run``.

        Raises:
            StorageError: its spool cannot be written.
        """
        with self._lock:
            recorder = self._recorders.get(run.run_id)
            if recorder is None:
                recorder = open_recorder(run.spool, _identity(run), level=Level.TRIGGER)
                self._recorders[run.run_id] = recorder
            recorder.event(name, attributes=attributes)

    def keep(self, run_ids: Collection[str]) -> None:
        """Close the recorders of all other runs."""
        with self._lock:
            for run_id in [known for known in self._recorders if known not in run_ids]:
                self._recorders.pop(run_id).close()


def _identity(run: RunDirectory) -> Identity:
    return Identity(
        run_id=run.run_id,
        role=ROLE,
        rank=None,
        world_size=run.manifest.world_size,
        host=host_name(),
        coordinates={},
    )
