"""One daemon a home, from the start on demand to the sealed end, whatever ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from collectors.clock import process_lives
from collectors.daemon.access import open_store
from collectors.daemon.client import DaemonClient
from collectors.daemon.endpoint import Note, listen, socket_path
from collectors.daemon.lifecycle import ensure_daemon, stop_daemon
from collectors.errors import StorageError
from collectors.query.direct import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from collectors.recorder import Recorder
    from collectors.run import RunDirectory

    OpenRank = Callable[[int | None], Recorder]
    StartDaemon = Callable[..., int]
    Eventually = Callable[..., None]

pytestmark = pytest.mark.once


def lives(pid: int) -> bool:
    return process_lives(pid, since_ns=time.time_ns())


def count(home: Path) -> int:
    with open_store(home) as store:
        [(rows,)] = store.rows("SELECT count(*) FROM spans")
    return int(rows)


def record(recorder: Recorder, spans: int) -> None:
    for step in range(spans):
        recorder.record_span("forward", step, step + 1, step)


def test_of_several_started_at_once_one_stays(home: Path, start_daemon: StartDaemon) -> None:
    command = [sys.executable, "-P", "-m", "opsuite.cli.main", "collect"]
    started = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(4)
    ]
    said = [process.communicate(timeout=60)[1] for process in started]
    pid = start_daemon()
    assert [process.returncode for process in started] == [0] * 4
    assert sum("collecting into" in text for text in said) == 1
    assert sum(f"already running (pid {pid})" in text for text in said) == 3
    assert lives(pid)


def test_a_killed_daemon_loses_nothing_and_is_replaced(
    home: Path, run: RunDirectory, open_rank: OpenRank, start_daemon: StartDaemon
) -> None:
    recorder = open_rank(0)
    for spans in (3000, 1):
        record(recorder, spans)
        pid = start_daemon()
        count(home)
        os.kill(pid, signal.SIGKILL)
        record(recorder, 500)
    start_daemon()
    assert count(home) == 4001


@pytest.mark.parametrize("how", [signal.SIGTERM, None])
def test_an_orderly_end_seals_and_leaves_no_socket(
    home: Path,
    run: RunDirectory,
    open_rank: OpenRank,
    start_daemon: StartDaemon,
    eventually: Eventually,
    how: signal.Signals | None,
) -> None:
    pid = start_daemon()
    record(open_rank(0), 2000)
    if how is None:
        assert stop_daemon(home) == pid
    else:
        os.kill(pid, how)
        eventually(lambda: not lives(pid))
    note = Note.read(home)
    assert note is not None
    assert not Path(note.socket).exists()
    assert list(home.glob("parquet/span/**/*.parquet"))
    assert not list(home.glob("hot/*"))
    assert DaemonClient.find(home) is None
    with Store.open(home) as store:
        assert store.rows("SELECT count(*) FROM spans") == [(2000,)]


def test_it_stays_for_a_live_run_and_ends_when_idle(
    home: Path,
    run: RunDirectory,
    open_rank: OpenRank,
    start_daemon: StartDaemon,
    eventually: Eventually,
) -> None:
    recorder = open_rank(0)
    pid = start_daemon("--idle-s", "0.5")
    time.sleep(1.5)
    assert lives(pid)
    record(recorder, 10)
    recorder.close()
    run.finish("finished", 0)
    eventually(lambda: not lives(pid))
    assert count(home) == 10


def test_whoever_opens_the_store_meets_the_daemon_or_its_end(
    home: Path, run: RunDirectory, open_rank: OpenRank, start_daemon: StartDaemon
) -> None:
    """While daemons come and go, each answer is whole."""
    recorder = open_rank(0)
    for rows in range(1, 7):
        record(recorder, 1)
        if rows % 3 == 1:
            start_daemon()
        elif rows % 3 == 0:
            note = Note.read(home)
            assert note is not None
            os.kill(note.pid, signal.SIGTERM)
        assert count(home) == rows


def test_a_cleaned_away_socket_comes_back_and_a_home_that_vanishes_ends_it(
    home: Path, start_daemon: StartDaemon, eventually: Eventually
) -> None:
    pid = start_daemon()
    note = Note.read(home)
    assert note is not None
    Path(note.socket).unlink()

    def answers() -> bool:
        client = DaemonClient.find(home)
        if client is None:
            return False
        with client:
            return bool(client.status()["pid"] == pid)

    eventually(answers)
    home.rename(home.with_name("elsewhere"))
    eventually(lambda: not lives(pid))
    assert not list(home.glob("parquet/**/*.*"))


def test_a_daemon_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="making"):
        ensure_daemon(tmp_path / "file" / "home")


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "opsuite" / "x.sock"
    if os.geteuid() == 0:
        path.parent.mkdir()
        os.chown(path.parent, 12345, -1)
    else:
        path.parent.symlink_to("/")
    with pytest.raises(StorageError, match="somebody else"):
        listen(path, None)


def test_a_stale_socket_is_replaced_and_the_directory_closed(tmp_path: Path) -> None:
    path = tmp_path / "opsuite" / "x.sock"
    path.parent.mkdir(mode=0o777)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listen(path, None):
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_long_home_has_a_short_socket(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 200)
    assert len(str(socket_path(home, runtime=None, group=None))) < 60
    home.mkdir()
    assert socket_path(home, runtime=home, group=None).parent.parent == Path("/tmp")
    assert socket_path(home, runtime=tmp_path, group=7).parent == Path(
        f"/tmp/opsuite-{os.getuid()}-7"
    )
