"""What the logs of live runs tell becomes events of these runs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from collectors.clock import host_name
from collectors.daemon.journal import Journal
from collectors.errors import StorageError
from collectors.samplers.logs import LogSampler
from collectors.samplers.sampler import Absent, Happening

if TYPE_CHECKING:
    from collections.abc import Iterable

    from collectors.run import RunDirectory

LOOK_S = LogSampler.period_s
_CLAIM = "logs-read-by"


class LogWatch:
    """Follows the logs of the runs of this host for as long as they live.

    Args:
        reader: as who; the first that looks at a run reads its logs, and no other does.
    """

    def __init__(self, journal: Journal, reader: str = "collector") -> None:
        self._journal = journal
        self._reader = reader
        self._samplers: dict[str, tuple[RunDirectory, LogSampler]] = {}
        self._finished: set[str] = set()

    def look(self, live: Iterable[RunDirectory]) -> None:
        """Read what is new of the ``live`` runs, and the rest of those that have ended.

        Raises:
            StorageError: the spool of a run cannot be written; the others have theirs.
        """
        ours = {run.run_id: run for run in live if run.manifest.host == host_name()}
        self._finished &= ours.keys()
        troubles: list[StorageError] = []
        for run_id, run in ours.items():
            if run_id not in self._samplers and not _claim(run, self._reader):
                self._finished.add(run_id)
            if run_id not in self._finished:
                _, sampler = self._samplers.setdefault(run_id, (run, LogSampler(run.logs)))
                troubles += self._sample(run, sampler)
        for run_id, (run, sampler) in list(self._samplers.items()):
            if run_id not in ours or ours[run_id].manifest.status != "running":
                del self._samplers[run_id]
                self._finished.add(run_id)
                troubles += self._record(run, sampler.finish())
        if troubles:
            raise troubles[0]

    def close(self) -> None:
        """Let go of all logs."""
        for _, sampler in self._samplers.values():
            sampler.close()
        self._samplers.clear()

    def _sample(self, run: RunDirectory, sampler: LogSampler) -> list[StorageError]:
        try:
            found = sampler.read()
        except Absent:
            return []  # a run of an earlier version, or one that is just removed
        return self._record(run, [one for one in found if isinstance(one, Happening)])

    def _record(self, run: RunDirectory, found: Iterable[Happening]) -> list[StorageError]:
        try:
            for one in found:
                self._journal.record(run, one.name, one.attributes)
        except StorageError as error:
            return [error]
        return []


def read_at_end(run: RunDirectory) -> None:
    """Read the logs of a run that has ended, if no collector has begun to: it was too short.

    Raises:
        StorageError: its spool cannot be written.
    """
    journal = Journal()
    try:
        LogWatch(journal, "launcher").look([run])
    finally:
        journal.keep(())


def _claim(run: RunDirectory, reader: str) -> bool:
    """Whether ``reader`` is to read the logs of ``run``, or did so before it was started anew."""
    path = run.path / _CLAIM
    try:
        with suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
            path.chmod(0o600)
            file.write(reader)
        return path.read_text("utf-8", "replace") == reader
    except OSError:  # a run that was just removed, or a full disk, which recording will tell
        return True
