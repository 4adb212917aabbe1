"""The samplers of the host: read while a run lives here, and into the spool of each that does."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collectors.errors import StorageError
from collectors.samplers.reader import Reader
from collectors.samplers.sampler import Happening, Reading
from collectors.samplers.schedule import Schedule
from collectors.samplers.standing import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from collectors.daemon.chore import Warnings
    from collectors.daemon.heartbeat import LocalRun
    from collectors.daemon.journal import Journal
    from collectors.samplers.sampler import Sampler
    from collectors.samplers.standing import Standing

    MakeSampler = Callable[[], Sampler]
    Running = Callable[[], Mapping[str, LocalRun]]

_LOOK_S = 1.0
_RECORDING = "recording samples"


def host_samplers(home: Path, pids: Callable[[], Iterable[int]]) -> list[MakeSampler]:
    """What makes each sampler of this host.

    Args:
        home: the directory on whose file system the room is measured.
        pids: gives the processes of runs.
    """
    from collectors.samplers.cgroup import CgroupSampler
    from collectors.samplers.disks import DiskSampler, RoomSampler
    from collectors.samplers.infiniband import InfinibandSampler
    from collectors.samplers.memory import MemorySampler, PagingSampler
    from collectors.samplers.network import NetworkSampler, TcpSampler
    from collectors.samplers.nvml import NvmlSampler
    from collectors.samplers.pressure import PressureSampler
    from collectors.samplers.processor import LoadSampler, ProcessorSampler, RunQueueSampler

    root = Path("/")
    return [
        partial(ProcessorSampler, root),
        partial(LoadSampler, root),
        partial(RunQueueSampler, root),
        partial(PressureSampler, root),
        partial(MemorySampler, root),
        partial(PagingSampler, root),
        partial(DiskSampler, root),
        partial(RoomSampler, home),
        partial(NetworkSampler, root),
        partial(TcpSampler, root),
        partial(CgroupSampler, root, pids),
        partial(InfinibandSampler, root),
        NvmlSampler,
    ]


def pids_of(running: Running) -> list[int]:
    """The processes that record into the runs of this host."""
    return [one.pid for local in list(running().values()) for one in local.processes]


class Sampling:
    """Reads samplers, each in a thread of its own, while there is a run to record them into.

    Args:
        samplers: gives what makes each of them; asked when the first run lives.
        running: the runs that live on this host just now.
    """

    def __init__(
        self,
        samplers: Callable[[], Sequence[MakeSampler]],
        running: Running,
        journal: Journal,
        warnings: Warnings,
    ) -> None:
        self._running = running
        self._journal = journal
        self._warnings = warnings
        self._samplers = samplers
        self._lock = threading.Lock()
        self._readers: dict[str, Reader] = {}
        self._schedule = Schedule({})
        self._known: set[str] = set()  # runs that were told how the samplers stand

    def look(self) -> float:
        """Have those read that are due; in how many seconds to look again."""
        running = self._running()
        if not running:
            self._rest()
            return _LOOK_S
        if not self._readers:
            self._make_readers()
        now_s = time.monotonic()
        with self._lock:
            if not self._known:
                self._schedule.restart(now_s)
            new = [local for run_id, local in running.items() if run_id not in self._known]
            standings = self._schedule.happenings() if new else []
            self._known = set(running)
            due = self._schedule.due(now_s)
            late = self._schedule.overdue(now_s)
            wait_s = min(self._schedule.wait_s(now_s), _LOOK_S)
            for name, standing in self._schedule.standings().items():
                self._warn(name, standing)
        for name in due:
            self._readers[name].read()
        self._record(new, standings)
        self._record(running.values(), late)
        return wait_s

    def _make_readers(self) -> None:
        readers = [Reader(make, self._answered) for make in self._samplers()]
        with self._lock:
            self._readers = {reader.name: reader for reader in readers}
            self._schedule = Schedule({reader.name: reader.period_s for reader in readers})

    def _rest(self) -> None:
        with self._lock:
            if not self._known:
                return
            self._known = set()
            for name in self._readers:
                self._warnings.clear(_about(name))
        for reader in self._readers.values():
            reader.rest()

    def _answered(
        self, name: str, standing: Standing, found: Sequence[Reading | Happening]
    ) -> None:
        """A reading ended; called in the reader's thread."""
        with self._lock:
            news = self._schedule.answered(name, standing, time.monotonic())
            if not self._known:
                return  # it ended after the last run
            self._warn(name, standing)
        self._record(self._running().values(), [*found, news] if news else found)

    def _warn(self, name: str, standing: Standing) -> None:
        if standing.state is State.FAILING:
            self._warnings.set(_about(name), standing.reason or "")
        else:
            self._warnings.clear(_about(name))

    def _record(self, runs: Iterable[LocalRun], found: Sequence[Reading | Happening]) -> None:
        readings = [one for one in found if isinstance(one, Reading)]
        happenings = [one for one in found if isinstance(one, Happening)]
        if not found:
            return
        try:
            for local in runs:
                self._journal.sample(local.run, readings)
                for one in happenings:
                    self._journal.record(local.run, one.name, one.attributes, one.value)
        except StorageError as error:  # a reader's thread goes on, and the daemon says so
            self._warnings.set(_RECORDING, error.what)
        else:
            self._warnings.clear(_RECORDING)

    def status(self) -> list[dict[str, Any]]:
        """How each sampler stands, or stood when the last run ended, as JSON values."""
        with self._lock:
            return self._schedule.status()

    def close(self) -> None:
        """Let go of all sources; what hangs is left to hang."""
        for reader in self._readers.values():
            reader.end()


def _about(name: str) -> str:
    return f"sampler {name}"
