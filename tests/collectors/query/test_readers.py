"""Readers answer in frames, and none is held for ever: by its query, its client, or its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from collectors.errors import TimedOut, Unreachable, UsageError
from collectors.query.answers import answer_of
from collectors.query.direct import Store
from collectors.query.readers import ReaderPool

if TYPE_CHECKING:
    from collections.abc import Callable

Small = Any  # the conftest's SmallStore
ENDLESS = "SELECT sum(sqrt(range)) FROM range(1000000000000)"


def children() -> list[int]:
    """The readers of this process that live."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "collectors.query.reader" in child.cmdline():
                found.append(child.pid)
    return found


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_child_answers_many_questions(small: Small, pool: ReaderPool) -> None:
    """A snapshot with new rows reaches the same child; parameters and limits do too."""
    small.run("r")
    process = small.process(0)
    answer_of(pool.ask(small.snapshot(), "SELECT 1"))
    pids = children()
    assert len(pids) == 1
    for step in range(3):
        small.span(process, "step", step, step, step + 1)
        snapshot = small.snapshot()
        asked = "SELECT step FROM spans WHERE run_id = run_named(?) ORDER BY step"
        answer = answer_of(pool.ask(snapshot, asked, ["last"], limit=2))
        assert answer.rows == [(0,), (1,)][: step + 1]
        assert answer.total == step + 1
        with pytest.raises(UsageError, match="nope"):
            answer_of(pool.ask(snapshot, "SELECT nope FROM spans"))
    assert children() == pids
    assert pool.status() == {"readers": 1, "idle": 1, "asked": 7, "killed": 0}


def test_a_large_result_comes_in_frames(small: Small, pool: ReaderPool) -> None:
    """200 MB of texts: no frame is larger than a receiver takes, and all rows come in order."""
    sql = "SELECT range AS n, repeat('x', 1000) AS text FROM range(200000)"
    frames = list(pool.ask(small.snapshot(), sql))
    assert len(frames) > 5
    assert max(len(body) for _, body in frames) <= 16 << 20
    table = answer_of(frames).table
    assert table["n"].to_pylist() == list(range(200_000))
    assert frames[-1] == ({"kind": "end", "total": 200_000}, b"")


def test_a_result_has_a_bound(small: Small) -> None:
    """Told as such; a text of more than a frame is told too."""
    snapshot = small.snapshot()
    with closing(ReaderPool(size=1, memory_bytes=1 << 30)) as pool:
        with pytest.raises(UsageError, match="larger than 1 GiB"):
            for _ in pool.ask(snapshot, "SELECT repeat('x', 10000) FROM range(200000)"):
                pass  # so that nothing of it is kept here
        with pytest.raises(UsageError, match="a value is larger than 64 MiB"):
            answer_of(pool.ask(snapshot, "SELECT repeat('x', 80000000)"))
        assert answer_of(pool.ask(snapshot, "SELECT 1")).rows == [(1,)]
        assert pool.status()["killed"] == 0


def test_a_late_query_is_killed_and_the_next_one_answers(small: Small, pool: ReaderPool) -> None:
    snapshot, pids = small.snapshot(), children()
    began = time.monotonic()
    with pytest.raises(TimedOut, match="longer than 2 s"):
        answer_of(pool.ask(snapshot, ENDLESS))
    assert time.monotonic() - began < 5
    assert answer_of(pool.ask(snapshot, "SELECT 1")).rows == [(1,)]
    assert children() != pids
    assert len(children()) == 1


def test_a_client_that_stops_reading_holds_nobody(small: Small, pool: ReaderPool) -> None:
    """Its reader waits for it, and goes to the next one after the limit."""
    snapshot = small.snapshot()
    frames = pool.ask(snapshot, "SELECT range, repeat('x', 1000) FROM range(1000000)")
    next(frames)
    assert answer_of(pool.ask(snapshot, "SELECT 1")).rows == [(1,)]
    with pytest.raises(TimedOut):
        list(frames)
    assert len(children()) == 1


def test_a_client_that_goes_away_frees_its_reader(small: Small, pool: ReaderPool) -> None:
    frames = pool.ask(small.snapshot(), "SELECT range, repeat('x', 1000) FROM range(1000000)")
    next(frames)
    frames.close()
    assert answer_of(pool.ask(small.snapshot(), "SELECT 1")).rows == [(1,)]


def test_those_who_wait_are_answered_or_told(small: Small, pool: ReaderPool) -> None:
    """One reader, six askers, one of them endless: nobody waits longer than the limit."""
    snapshot = small.snapshot()
    answer_of(pool.ask(snapshot, "SELECT 1"))
    ends: list[str] = []

    def ask(sql: str) -> None:
        try:
            ends.append(str(answer_of(pool.ask(snapshot, sql)).rows))
        except TimedOut as error:
            ends.append(error.what)

    threads = [threading.Thread(target=ask, args=[sql]) for sql in [ENDLESS] + ["SELECT 1"] * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(ends) == 6
    allowed = {
        "[(1,)]",
        "the query took longer than 2 s",
        "all readers are busy with other queries",
    }
    assert set(ends) <= allowed
    assert "the query took longer than 2 s" in ends


def test_a_reader_that_was_killed_is_replaced(small: Small) -> None:
    """While it was idle nobody notices; in the middle of a query the client is told."""
    snapshot, pool = small.snapshot(), ReaderPool(size=1)
    os.kill(children()[0], signal.SIGKILL)
    assert answer_of(pool.ask(snapshot, "SELECT 1")).rows == [(1,)]
    killer = threading.Timer(0.2, lambda: os.kill(children()[0], signal.SIGKILL))
    killer.start()
    with pytest.raises(UsageError, match="signal 9"):
        answer_of(pool.ask(snapshot, ENDLESS))
    killer.join()
    assert answer_of(pool.ask(snapshot, "SELECT 1")).rows == [(1,)]
    pool.close()


def test_closing_ends_what_is_under_way(small: Small) -> None:
    pool = ReaderPool(size=2)
    snapshot = small.snapshot()
    closer = threading.Timer(0.5, pool.close)
    closer.start()
    with pytest.raises(Unreachable, match="closed"):
        answer_of(pool.ask(snapshot, ENDLESS))
    closer.join()
    assert children() == []
    with pytest.raises(Unreachable):
        answer_of(pool.ask(snapshot, "SELECT 1"))


def test_a_file_that_is_gone_is_told_and_the_reader_goes_on(small: Small, pool: ReaderPool) -> None:
    small.run("r")
    small.span(small.process(0), "step", 1, 0, 1)
    old = small.snapshot()
    [hot] = old.tables["span"].hot
    kept = Path(hot).read_bytes()
    Path(hot).unlink()
    for _ in range(2):
        with pytest.raises(Unreachable, match="is gone"):
            answer_of(pool.ask(old, "FROM spans"))
    Path(hot).write_bytes(kept)
    assert answer_of(pool.ask(old, "SELECT step FROM spans")).rows == [(1,)]
    assert pool.status()["killed"] == 0


def test_a_reader_ends_with_whoever_asked(tmp_path: Path) -> None:
    """A daemon that is killed leaves no child behind that computes for ever."""
    script = f"""
import psutil
from collectors.query.direct import Store
from collectors.query.readers import ReaderPool
from collectors.store.snapshot import Snapshot
pool = ReaderPool(size=1, wall_limit_s=600)
frames = pool.ask(Snapshot(version=1, parquet={str(tmp_path)!r}), {ENDLESS!r})
print(psutil.Process().children()[0].pid, flush=True)
next(frames)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.5)  # in the middle of its query
        parent.kill()
    wait_for(lambda: not psutil.pid_exists(pid) or _is_zombie(pid))


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_without_a_daemon_users_have_a_reader_too(home: Path) -> None:
    """It sees what the store holds, and ends with it."""
    with Store.open(home) as store:
        assert children() == []
        assert store.query("SELECT count(*) FROM runs").rows == [(0,)]
        assert len(children()) == 1
        with pytest.raises(UsageError, match="memory"):
            store.query("SELECT length(repeat('x', 4000000000))")
        assert store.query("FROM range(3)", limit=2).truncated
    assert children() == []
