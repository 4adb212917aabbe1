"""Signs of life of everyone who records on this host, every few seconds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from collectors.clock import host_name, process_lives_since, process_space
from collectors.errors import DataError, StorageError
from collectors.segment import HEADER_SIZE, SUFFIX
from collectors.segment_reader import read_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from collectors.daemon.journal import Journal
    from collectors.run import RunDirectory

EVERY_S = 5.0
LOOK_S = 1.0
"""How often to look who is there: soon after the last one ended, its run can settle."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A process of this host that records into a run.

    Attributes:
        process: its key.
        role, rank, pid: who it is.
    """

    process: str
    role: str
    rank: int | None
    pid: int


@dataclass(frozen=True, kw_only=True)
class LocalRun:
    """A run, and who records into it on this host just now."""

    run: RunDirectory
    processes: Sequence[Recording]


class LocalProcesses:
    """Who records on this host, from the headers of the spools."""

    def __init__(self) -> None:
        self._settled: dict[str, set[str]] = {}  # files of which nothing more is to be learnt

    def of(self, run: RunDirectory) -> list[Recording]:
        """The live ones that still record into ``run``, this process left out."""
        settled = self._settled.get(run.run_id, set())
        now_settled: set[str] = set()
        found: dict[str, Recording] = {}
        for path in sorted(run.spool.glob(f"*{SUFFIX}")):
            try:
                recording = None if path.name in settled else _recording(path)
            except (OSError, DataError, KeyError, TypeError):
                continue  # just begun, or damaged, which the collector tells
            if recording is None:
                now_settled.add(path.name)
            else:
                found[recording.process] = recording
        self._settled[run.run_id] = now_settled
        return list(found.values())

    def forget(self, run_ids: Iterable[str]) -> None:
        """Keep only what is known of these runs."""
        kept = set(run_ids)
        self._settled = {run_id: names for run_id, names in self._settled.items() if run_id in kept}


def _recording(path: Path) -> Recording | None:
    """Who writes that segment; None where nobody does: it is closed, or not of a live process.

    Segments of other hosts, and of this process, are not looked at either.
    """
    with path.open("rb") as file:
        header = read_header(path, file.read(HEADER_SIZE))
    facts = header.facts
    here = facts["host"] == host_name() and facts["process_space"] == process_space()
    if header.closed or not here or facts["pid"] == os.getpid():
        return None
    if not process_lives_since(facts["pid"], facts["monotonic_ns"]):
        return None
    return Recording(
        process=facts["process"], role=facts["role"], rank=facts["rank"], pid=facts["pid"]
    )


class Heartbeats:
    """Records one event "heartbeat" for each process, and lets runs without any settle."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._processes = LocalProcesses()
        self._due_s: dict[str, float] = {}
        self.running: Mapping[str, LocalRun] = {}
        """By its id, each run that lived on this host at the last beat; never changed in place."""

    def beat(self, live: Iterable[RunDirectory], now_s: float) -> None:
        """For each process of the live runs whose last one is 5 s ago (``now_s``: monotonic).

        Raises:
            StorageError: the spool of a run cannot be written; the others have theirs.
        """
        failed: StorageError | None = None
        running: dict[str, LocalRun] = {}
        due_s: dict[str, float] = {}
        for run in live:
            recordings = self._processes.of(run)
            if recordings:
                running[run.run_id] = LocalRun(run=run, processes=recordings)
            for recording in recordings:
                due_s[recording.process] = self._due_s.get(recording.process, now_s)
                if due_s[recording.process] > now_s:
                    continue
                due_s[recording.process] = now_s + EVERY_S
                try:
                    self._record(run, recording)
                except StorageError as error:
                    failed = error
        self._due_s = due_s
        self._journal.keep(running.keys())
        self.running = running
        self._processes.forget(running)
        if failed is not None:
            raise failed

    def _record(self, run: RunDirectory, recording: Recording) -> None:
        vitals = vitals_of(recording.pid)
        if vitals is None:
            return
        who = {"process": recording.process, "role": recording.role, "rank": recording.rank}
        self._journal.record(run, "heartbeat", {**who, **vitals})


def vitals_of(pid: int) -> dict[str, Any] | None:
    """State and use of a process; what cannot be read is None, and all of one that is gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return {
                "pid": pid,
                "state": process.status(),
                "rss_bytes": process.memory_info().rss,
                "cpu_s": round(times.user + times.system, 3),
                "threads": process.num_threads(),
            }
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return {"pid": pid, "state": None, "rss_bytes": None, "cpu_s": None, "threads": None}
