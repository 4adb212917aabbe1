"""Starting and ending a daemon: one for each user, host and store."""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.daemon.client import DaemonClient
from collectors.daemon.endpoint import Note
from collectors.daemon.holders import lock_holders
from collectors.errors import OpsuiteError, StorageError, TimedOut, Unreachable
from collectors.query.protocol import to_error
from collectors.store.lock import StoreLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOCK = "store.lock"
LOG = "collect.log"
_START_S = 15.0
_STOP_S = 60.0
_POLL_S = 0.05
_PATIENCE_S = 1.0
_LOCK_S = 120.0  # longer than any query of a command that reads by itself


@dataclass(frozen=True, kw_only=True)
class Running:
    """A daemon that runs.

    Attributes:
        started: whether it was started just now.
    """

    pid: int
    started: bool


def ensure_daemon(home: Path, *, arguments: tuple[str, ...] = ()) -> Running:
    """The collector of ``home``, started in the background if there is none.

    Args:
        arguments: for ``python -m collectors.daemon``.

    Raises:
        TimedOut: it is not ready in time; it may be later.
        OpsuiteError: it cannot be started, or is of another version; the text says what to do.
    """
    client = DaemonClient.find(home)
    if client is not None:
        with client:
            return Running(pid=int(client.daemon["pid"]), started=False)
    return _start(home, arguments)


def _start(home: Path, arguments: tuple[str, ...]) -> Running:
    """Start it as a session of its own, and wait for its report."""
    make_home(home)
    reader, writer = os.pipe()
    command = [sys.executable, "-P", "-m", "collectors.daemon", str(home), *arguments]
    try:
        with os.fdopen(writer, "wb"), (home / LOG).open("ab") as log:
            subprocess.run(
                [*command, "--report", str(writer)],
                check=True,
                pass_fds=[writer],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                timeout=_START_S,
            )
        return _report(home, reader)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unreachable(
            "the collector cannot be started", where=str(error), remedy="see `opsuite collect logs`"
        ) from error
    finally:
        os.close(reader)


def make_home(home: Path) -> None:
    """Have the directory; StorageError where it cannot be made."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError.from_os_error(error, f"making {home}") from error


def _report(home: Path, reader: int) -> Running:
    with selectors.DefaultSelector() as waiting:
        waiting.register(reader, selectors.EVENT_READ)
        if not waiting.select(_START_S):
            raise _not_ready(home)
    told = os.read(reader, 1 << 16)  # written at once, and less than a pipe takes
    if not told:
        raise Unreachable(
            "the collector ended as soon as it began",
            where=str(home / LOG),
            remedy="see `opsuite collect logs`",
        )
    report = json.loads(told)
    if "error" in report:
        raise to_error(report)
    return Running(pid=report["pid"], started=report["started"])


def _not_ready(home: Path) -> TimedOut:
    """Say what it waits for; it goes on waiting, longer than we do."""
    reading = _readers(home)
    if not reading:
        return TimedOut(
            f"the collector is not ready after {_START_S:g} s",
            where=str(home / LOG),
            remedy="give it time: it goes on starting; `opsuite collect logs` says how far it is",
        )
    return TimedOut(
        f"the collector waits for the store, which is in use by process {reading}",
        where=str(home / LOCK),
        remedy=f"let process {reading} end, or end it: the collector then starts by itself "
        f"(it waits for {_LOCK_S:g} s); nothing is lost meanwhile",
    )


def _readers(home: Path) -> str:
    """The processes that keep the store and are no collectors; "" where that is unknown."""
    return ", ".join(str(pid) for pid in lock_holders(home / LOCK) if not _is_collector(pid))


def claim(home: Path) -> StoreLock | int:
    """The store's lock for this process alone, or the id of the collector that has it.

    Raises:
        TimedOut: a command keeps the store for longer than one should.
        StorageError: the home cannot be written.
    """
    make_home(home)
    lock = StoreLock(home / LOCK)
    deadline = time.monotonic() + _LOCK_S
    tell_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            lock.exclude(_POLL_S)
            return lock
        except TimedOut:
            other = _who_answers(home)
            if other is None and time.monotonic() > tell_s:
                tell_s = math.inf
                if reading := _readers(home):  # it goes into the log, or to the terminal
                    sys.stderr.write(f"waiting for the store: process {reading} has it\n")
            if other is None and time.monotonic() < deadline:
                continue  # a command reads, or another collector is just starting or ending
            reading = _readers(home) or "?"
            lock.release()
            if other is not None:
                return other
            raise TimedOut(
                f"the store is in use by process {reading} for more than {_LOCK_S:g} s",
                where=str(home / LOCK),
                remedy="let that process end, or end it, and then run `opsuite collect`",
            ) from None


def _who_answers(home: Path) -> int | None:
    try:
        client = DaemonClient.find(home)
    except TimedOut:
        return None
    except OpsuiteError:  # of another version: it answers all the same
        note = Note.read(home)
        return None if note is None else note.pid
    if client is None:
        return None
    with client:
        return int(client.daemon["pid"])


def stop_daemon(home: Path) -> int | None:
    """End the collector of ``home``, of whatever version, and wait until it has sealed.

    Returns its process id; None where none runs.

    Raises:
        TimedOut: it does not end.
    """
    note = Note.read(home)
    if note is None or not note.lives:
        return None
    _ask_to_stop(home, note)
    _wait(lambda: not note.lives, note)
    return note.pid


def _ask_to_stop(home: Path, note: Note) -> None:
    try:
        client = DaemonClient.find(home)
        if client is not None:
            with client:
                client.stop()
                return
    except OpsuiteError:
        pass  # it does not answer, or is of another version: a signal does it as well
    if _is_collector(note.pid):
        os.kill(note.pid, signal.SIGTERM)


def _is_collector(pid: int) -> bool:
    """Whether that process is what the note says, and not one that was given its number."""
    import psutil

    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return any("collectors.daemon" in word or word == "collect" for word in words)


def _wait(done: Callable[[], bool], note: Note) -> None:
    deadline = time.monotonic() + _STOP_S
    while not done():
        if time.monotonic() > deadline:
            raise TimedOut(
                f"the collector (process {note.pid}) has not ended after {_STOP_S:g} s",
                remedy=f"`kill -9 {note.pid}`: nothing is lost",
            )
        time.sleep(_POLL_S)
