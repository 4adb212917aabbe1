"""What the processes of a run are doing just now, as the collector tells and records it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collectors.board_reader import open_boards
from collectors.clock import process_space
from collectors.daemon.heartbeat import LocalProcesses
from collectors.errors import Unreachable
from collectors.samplers.stack_entries import fitted, stack_entries
from collectors.samplers.stacks import read_stacks

if TYPE_CHECKING:
    from collectors.board import BoardFacts
    from collectors.daemon.journal import Journal
    from collectors.run import RunDirectory


def take_stacks(run: RunDirectory, journal: Journal) -> list[dict[str, Any]]:
    """The stacks of all live processes of ``run`` on this host, one entry a thread; recorded too.

    An entry has process, role and rank, and what :func:`stack_entries` says.

    Raises:
        Unreachable: there is no such process.
        StorageError: the run's spool cannot be written.
    """
    processes = {recording.pid: recording for recording in LocalProcesses().of(run)}
    if not processes:
        raise Unreachable(
            f"no process of the run {run.run_id} is alive on this host", where=str(run.spool)
        )
    found = read_stacks(list(processes), boards=_boards(run))
    entries = [
        {**vars(processes[one.rank_pid]), **entry} for one in found for entry in stack_entries(one)
    ]
    for entry in entries:
        journal.record(run, "stack", fitted(entry))
    return entries


def _boards(run: RunDirectory) -> dict[int, BoardFacts]:
    """The boards of this run's processes by process id, as far as ids mean something here."""
    known = {}
    for reader in open_boards(run.path / "boards"):
        if reader.facts.space == process_space():
            known[reader.facts.pid] = reader.facts
        reader.close()
    return known
