"""What is wrong is shown while it is: files of the user, alerts, and who keeps the store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from collectors.daemon import holders, lifecycle
from collectors.daemon.client import DaemonClient
from collectors.daemon.holders import lock_holders
from collectors.daemon.lifecycle import ensure_daemon, stop_daemon
from collectors.errors import TimedOut, Unreachable
from collectors.store.lock import StoreLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from collectors.recorder import Recorder
    from collectors.run import RunDirectory

    StartDaemon = Callable[..., int]
    Eventually = Callable[..., None]

pytestmark = pytest.mark.once

RULES = """
[[alert]]
name = "slow rank"
every_s = 1
sql = "SELECT {column} FROM runs"
notify = [{{command = ["{program}"]}}]
"""
READER = """
import sys
from pathlib import Path
from collectors.query.direct import Store
with Store.open(Path(sys.argv[1])):
    print("reads", flush=True)
    sys.stdin.read()
"""


def test_the_status_shows_what_is_wrong_until_it_is_mended(
    home: Path, run: RunDirectory, client: DaemonClient, eventually: Eventually
) -> None:
    assert client.status()["warnings"] == []

    def warned(*beginnings: str) -> bool:
        found = client.status()["warnings"]
        pairs = zip(found, beginnings, strict=False)
        return len(found) == len(beginnings) and all(one.startswith(text) for one, text in pairs)

    file = home / "alerts.toml"
    file.write_text(RULES.format(column="nothing", program="/no/bell"))
    (home / "collect.toml").write_text("[retention]\nmax_size = 'x'\n")
    missing = "alert slow rank: /no/bell: cannot be started"
    removing = "collect.toml is not followed, nothing is removed: retention.max_size = "
    eventually(lambda: warned("alert slow rank cannot be looked for: ", missing, removing))
    (home / "collect.toml").unlink()
    file.write_text(RULES.format(column="name", program="false"))
    eventually(lambda: warned("alert slow rank: false: exit code 1"))
    file.write_text("[[alert]]\nname = 3\n")
    eventually(
        lambda: warned("alerts.toml is not followed: alert.", "alert slow rank: false: exit code 1")
    )
    shown = subprocess.run(
        [sys.executable, "-P", "-m", "opsuite.cli.main", "collect", "status"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "warning: alerts.toml is not followed: alert." in shown.stdout
    file.write_text(RULES.format(column="name", program="true"))
    eventually(warned)


def test_an_alert_of_no_run_is_recorded_into_the_newest(
    home: Path, run: RunDirectory, client: DaemonClient, eventually: Eventually
) -> None:
    run.finish("finished", 0)
    (home / "alerts.toml").write_text(RULES.format(column="count(*) AS runs", program="true"))
    seen = "SELECT rule, run_id FROM alerts"
    eventually(lambda: client.query(seen).rows == [("slow rank", run.run_id)])


def test_who_keeps_the_store_is_named_and_the_collector_starts_after_it(
    home: Path,
    start_daemon: StartDaemon,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", READER, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reads\n"
        monkeypatch.setattr(lifecycle, "_START_S", 5.0)  # the interpreter starts within it, too
        with pytest.raises(TimedOut, match=f"in use by process {reader.pid}") as caught:
            ensure_daemon(home)
        assert (caught.value.where, "by itself" in caught.value.remedy) == (
            str(home / "store.lock"),
            True,
        )
        monkeypatch.setattr(lifecycle, "_LOCK_S", 0.1)
        with pytest.raises(TimedOut, match=f"in use by process {reader.pid}"):
            lifecycle.claim(home)
        assert DaemonClient.find(home) is None
        waits = f"waiting for the store: process {reader.pid}"
        eventually(lambda: waits in (home / lifecycle.LOG).read_text())
        reader.stdin.close()
    eventually((home / "collect.json").exists)
    monkeypatch.setattr(lifecycle, "_START_S", 15.0)
    start_daemon()


@pytest.mark.parametrize("listed", [True, False])
def test_the_holder_of_a_lock_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    if not listed:
        monkeypatch.setattr(holders, "_LOCKS", tmp_path / "none")
    path = tmp_path / "lock"
    assert lock_holders(path) == []
    lock = StoreLock(path)
    assert lock_holders(path) == []
    lock.exclude(1)
    lock.share(1)
    assert lock_holders(path) == [os.getpid()]
    lock.release()
    assert lock_holders(path) == []


def test_a_question_that_a_stop_cuts_short_says_what_to_do(
    home: Path, run: RunDirectory, client: DaemonClient
) -> None:
    stopper = threading.Timer(0.7, stop_daemon, [home])
    stopper.start()
    with pytest.raises(Unreachable) as caught:
        client.query("SELECT sum(a.range * b.range) FROM range(4000000) a, range(4000000) b")
    stopper.join()
    assert caught.value.remedy.startswith("ask again: where no collector runs")


def test_hot_files_that_somebody_removed_are_made_again(
    home: Path, run: RunDirectory, client: DaemonClient, open_rank: Callable[[int], Recorder]
) -> None:
    recorder = open_rank(0)
    recorder.record_span("forward", 1, 2, step=1)
    assert client.rows("SELECT count(*) FROM spans") == [(1,)]
    shutil.rmtree(home / "hot")
    recorder.record_span("forward", 1, 2, step=2)
    time.sleep(1.0)  # the next query is of another snapshot
    assert client.rows("SELECT count(*) FROM spans") == [(2,)]
