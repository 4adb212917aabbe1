"""The daemon: all its parts, from the start to the sealed end."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil

from collectors.clock import boot_id, host_name, now_ns
from collectors.daemon.alerting import Alerting
from collectors.daemon.chore import Chore, Warnings
from collectors.daemon.collection import Collection
from collectors.daemon.endpoint import Note, listen, socket_path
from collectors.daemon.heartbeat import LOOK_S, Heartbeats
from collectors.daemon.journal import Journal
from collectors.daemon.lifecycle import LOCK
from collectors.daemon.log_watch import LOOK_S as LOGS_S
from collectors.daemon.log_watch import LogWatch
from collectors.daemon.sampling import Sampling, host_samplers, pids_of
from collectors.daemon.server import Server
from collectors.daemon.verbs import Verbs
from collectors.errors import OpsuiteError
from collectors.query.protocol import PROTOCOL
from collectors.query.readers import ReaderPool
from collectors.retention.keeper import FILE, RetentionKeeper, load_retention
from collectors.settings import Settings
from collectors.stop_request import StopRequest
from collectors.version import own_version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from collectors.daemon.heartbeat import LocalRun

_LOOK_S = 1.0
_HANG_UP_S = 3.0
_RETENTION_S = 10.0  # the keeper itself knows when it is due


@dataclass(frozen=True, kw_only=True)
class DaemonOptions:
    """How a daemon is run.

    Attributes:
        idle_s: it ends when no run has lived and nobody has asked for so long; 0: never.
        group: id of the group whose members may read; None: only the owner.
        runtime: ``XDG_RUNTIME_DIR``.
    """

    idle_s: float = 60.0
    group: int | None = None
    runtime: Path | None = None


class Daemon:
    """Collects the runs of ``home`` and answers who asks. The caller holds the store's lock alone.

    Raises:
        OpsuiteError: it cannot be begun; nothing of it is left.
    """

    def __init__(self, home: Path, options: DaemonOptions) -> None:
        self._home = home
        self._options = options
        self._started_ns = time.time_ns()
        self._socket = socket_path(home, runtime=options.runtime, group=options.group)
        self._lock_place = (home / LOCK).stat()
        self.stopping = StopRequest()
        self._warnings = Warnings()
        self._journal = Journal(Settings.from_environment().level)
        self._collection = Collection(home, self._warnings)
        self._readers = ReaderPool()
        verbs = Verbs(
            home,
            self._collection,
            self._readers,
            self._journal,
            status=self.status,
            stop=self.stopping.make,
        )
        self._server = Server(verbs.answer, version=own_version(), group=options.group)
        self._alerting = Alerting(home, self._collection, self._readers, self._journal)
        self._logs = LogWatch(self._journal)
        self._heartbeats = Heartbeats(self._journal)
        self._sampling = self._make_sampling()
        self._chores = self._make_chores()

    def _make_sampling(self) -> Sampling:
        def running() -> Mapping[str, LocalRun]:
            return self._heartbeats.running

        samplers = partial(host_samplers, self._home, partial(pids_of, running))
        return Sampling(samplers, running, self._journal, self._warnings)

    def _make_chores(self) -> list[Chore]:
        keeper = RetentionKeeper(self._home, self._collection.thin)

        def beat() -> float:
            self._heartbeats.beat(self._collection.live, time.monotonic())
            return LOOK_S

        def retain() -> float:
            keeper.tick(time.time_ns())
            return _RETENTION_S

        def read_logs() -> float:
            self._logs.look(self._collection.live)
            return LOGS_S

        return [
            Chore("heartbeats", beat, self._warnings),
            Chore("retention", retain, self._warnings),
            Chore("sampling", self._sampling.look, self._warnings),
            Chore("logs", read_logs, self._warnings),
            Chore("alerts", self._alerting.look, self._warnings),
        ]

    def start(self) -> None:
        """Begin to listen and to collect.

        Raises:
            StorageError: there is no place for the socket.
        """
        self._listen()
        self._collection.start()
        for chore in self._chores:
            chore.start()

    def _listen(self) -> None:
        listener = listen(self._socket, self._options.group)
        self._place = self._socket.stat()
        self._server.serve(listener)
        Note(
            socket=str(self._socket),
            pid=os.getpid(),
            host=host_name(),
            boot_id=boot_id(),
            listens_ns=now_ns(),
            protocol=PROTOCOL,
        ).write(self._home)

    def run(self) -> None:
        """Serve until it is stopped, idle, or its home is gone; then seal.

        Raises:
            OpsuiteError, OSError: not all could be sealed; the spools keep it.
        """
        while not self.stopping.wait(_LOOK_S):
            if self._is_idle() or not self._has_home():
                break
            self._stay_reachable()
        self._close(seal=self._has_home())

    def _has_home(self) -> bool:
        """Whether the lock that we hold is still that of the home: it may be moved or removed."""
        try:
            return os.path.samestat((self._home / LOCK).stat(), self._lock_place)
        except OSError:
            return False

    def _is_idle(self) -> bool:
        limit_s = self._options.idle_s
        if not limit_s or self._server.idle_s < limit_s:
            return False
        return not self._collection.busy

    def _stay_reachable(self) -> None:
        """Listen anew where somebody cleaned the socket away, as at the end of a session."""
        try:
            with suppress(FileNotFoundError):
                if os.path.samestat(self._socket.stat(), self._place):
                    return
            self._socket = socket_path(
                self._home, runtime=self._options.runtime, group=self._options.group
            )
            self._listen()
            self._warnings.clear("listening")
        except (OSError, OpsuiteError) as error:
            self._warnings.set("listening", str(error))

    def _close(self, *, seal: bool) -> None:
        self._server.drain(_HANG_UP_S)
        self._server.close()
        self._readers.close()
        deadline = time.monotonic() + _HANG_UP_S
        while self._server.connections and time.monotonic() < deadline:
            time.sleep(0.02)
        for chore in self._chores:
            chore.stop()
        self._sampling.close()
        self._logs.close()
        self._alerting.close()
        self._journal.keep(())
        self._socket.unlink(missing_ok=True)
        self._collection.close(seal=seal)

    def status(self) -> dict[str, Any]:
        """All figures about it, as JSON values."""
        process = psutil.Process()
        times = process.cpu_times()
        return {
            "pid": os.getpid(),
            "host": host_name(),
            "home": str(self._home),
            "socket": str(self._socket),
            "version": own_version(),
            "protocol": PROTOCOL,
            "started_ns": self._started_ns,
            "uptime_s": (time.time_ns() - self._started_ns) / 1e9,
            **self._collection.status(),
            "rss_bytes": process.memory_info().rss,
            "cpu_s": round(times.user + times.system, 3),
            "clients": self._server.connections,
            "failed_requests": self._server.failures,
            "readers": self._readers.status(),
            "alerts": self._alerting.status(),
            "samplers": self._sampling.status(),
            "warnings": self._troubles(),
            "options": {"idle_s": self._options.idle_s, "group": self._options.group},
        }

    def _troubles(self) -> list[str]:
        """All that is wrong now; the files of the user as they are just now."""
        found = self._warnings.list() + self._alerting.troubles()
        try:
            load_retention(self._home)
        except OpsuiteError as error:
            found.append(f"{FILE} is not followed, nothing is removed: {error.what}")
        return found
