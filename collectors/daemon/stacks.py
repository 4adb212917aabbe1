"""What the processes of a run are doing just now, as the collector tells and records it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from collectors.board_reader import open_boards
from collectors.clock import process_space
from collectors.daemon.heartbeat import LocalProcesses
from collectors.errors import Unreachable
from collectors.samplers.stacks import read_stacks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collectors.board import BoardFacts
    from collectors.daemon.heartbeat import Recording
    from collectors.daemon.journal import Journal
    from collectors.run import RunDirectory
    from collectors.samplers.thread_stack import ProcessStacks, ThreadStack

_MOST_BYTES = 12_000  # of one event's attributes, which take 16 KiB


def take_stacks(run: RunDirectory, journal: Journal) -> list[dict[str, Any]]:
    """The stacks of all live processes of ``run`` on this host, one entry a thread; recorded too.

    An entry has process, role, rank, pid, child ("" for the process itself), stopped, thread_id,
    thread, main, active, gil and frames, the innermost first; where the process wrote them itself,
    ``note`` says why. One of a process that could not be read has ``error`` in place of the thread.

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
    entries = [entry for one in found for entry in _entries(processes[one.rank_pid], one)]
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


def _entries(recording: Recording, found: ProcessStacks) -> list[dict[str, Any]]:
    who = {**vars(recording), "pid": found.pid, "child": found.child, "stopped": found.stopped}
    if found.error:
        return [{**who, "error": found.error}]
    if found.note:
        who["note"] = found.note
    return [{**who, **_thread(thread)} for thread in found.threads]


def _thread(thread: ThreadStack) -> dict[str, Any]:
    return {
        "thread_id": thread.thread_id,
        "thread": thread.name or None,
        "main": thread.main,
        "active": thread.active,
        "gil": thread.gil,
        "frames": [
            {"function": frame.function, "file": frame.file, "path": frame.path, "line": frame.line}
            for frame in thread.frames
        ],
    }


def fitted(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry that an event can carry: of too many frames, the outermost are left out."""
    frames: Sequence[dict[str, Any]] = entry.get("frames", ())
    kept, size = [], 0
    for frame in frames:
        size += len(json.dumps(frame))
        if size > _MOST_BYTES:
            break
        kept.append(frame)
    if len(kept) == len(frames):
        return entry
    return {**entry, "frames": kept, "frames_left_out": len(frames) - len(kept)}
