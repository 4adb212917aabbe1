"""What the daemon itself has to say of a run goes into its spool, like everything else."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

from collectors.clock import host_name
from collectors.level import Level, declare, level_of
from collectors.recorder import Identity, open_recorder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from collectors.recorder import Recorder
    from collectors.run import RunDirectory
    from collectors.samplers.sampler import Reading

ROLE = "collector"
declare(Level.TRIGGER, "stack")


class Journal:
    """One recorder a run, of the role "collector"; safe under threads.

    An open recorder would keep its run live for ever: :meth:`keep` closes those of others.

    Args:
        level: the highest level of samples that are recorded. Events are, whatever it is: who asks
            for a stack wants it.
    """

    def __init__(self, level: Level = Level.TRIGGER) -> None:
        self._level = level
        self._lock = threading.Lock()
        self._recorders: dict[str, Recorder] = {}
        self._kept: frozenset[str] = frozenset()

    def record(
        self,
        run: RunDirectory,
        name: str,
        attributes: Mapping[str, Any],
        value: float = math.nan,
    ) -> None:
        """Record an event of ``run``.

        Raises:
            StorageError: its spool cannot be written.
        """
        with self._lock:
            self._recorder(run).event(name, value=value, attributes=attributes)

    def sample(self, run: RunDirectory, readings: Iterable[Reading]) -> None:
        """Record samples of ``run``, if it is one that :meth:`keep` was told to keep.

        So what is measured a moment after its end does not make it live again.

        Raises:
            StorageError: its spool cannot be written.
        """
        wanted = [one for one in readings if level_of(one.name) <= self._level]
        with self._lock:
            if wanted and run.run_id in self._kept:
                recorder = self._recorder(run)
                for reading in wanted:
                    recorder.sample(reading.name, reading.value)

    def _recorder(self, run: RunDirectory) -> Recorder:
        recorder = self._recorders.get(run.run_id)
        if recorder is None:
            recorder = open_recorder(run.spool, _identity(run), level=Level.TRIGGER)
            self._recorders[run.run_id] = recorder
        return recorder

    def keep(self, run_ids: Collection[str]) -> None:
        """Close the recorders of all other runs."""
        with self._lock:
            self._kept = frozenset(run_ids)
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
