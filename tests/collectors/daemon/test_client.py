"""A client's answers are those of the store itself, of all that was recorded before."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from collectors.clock import now_ns
from collectors.daemon.access import open_store
from collectors.daemon.client import DaemonClient
from collectors.daemon.endpoint import Note
from collectors.errors import Unreachable, UsageError
from collectors.query.direct import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from collectors.recorder import Recorder
    from collectors.run import RunDirectory

    OpenRank = Callable[[int | None], Recorder]
    StartDaemon = Callable[..., int]
    Eventually = Callable[..., None]

QUERIES = (
    "SELECT step, rank, name, duration_s, start_ns FROM spans ORDER BY step",
    "SELECT 1 AS a, NULL::INT AS b, 'x' AS c, [1, 2] AS d, {'k': 0.5} AS e, NULL AS f",
    "SELECT NULL::DOUBLE AS x, NULL::VARCHAR AS y UNION ALL SELECT 0.5, 'z' ORDER BY x",
    "SELECT count(*) FROM spans WHERE false",
    "SELECT step FROM spans WHERE false",
)


def record(recorder: Recorder, spans: int) -> None:
    for step in range(spans):
        now = now_ns()
        recorder.record_span("forward", now - 1, now, step)


def test_a_first_query_sees_all_that_was_recorded_before(
    home: Path, run: RunDirectory, open_rank: OpenRank, client: DaemonClient
) -> None:
    """No waiting for the next reading: a command right after a run has all of the run."""
    recorder = open_rank(0)
    for times in range(1, 6):
        record(recorder, 700)
        with open_store(home) as store:
            assert isinstance(store, DaemonClient)
            assert store.rows("SELECT count(*) FROM spans") == [(700 * times,)]


def test_answers_are_those_of_the_store(
    home: Path, run: RunDirectory, open_rank: OpenRank, client: DaemonClient
) -> None:
    record(open_rank(0), 100)
    answers = [client.query(sql) for sql in QUERIES]
    rows = [client.rows(sql) for sql in QUERIES]
    arrays = [client.arrays(sql) for sql in QUERIES[2:]]
    view = client.view("spans", run.run_id[:-2], limit=7)
    assert (len(view.rows), view.total, view.truncated) == (7, 100, True)
    client.stop()
    with Store.open(home) as store:
        for sql, answer, row in zip(QUERIES, answers, rows, strict=True):
            own = store.query(sql)
            assert (answer.columns, answer.rows, answer.total) == (own.columns, own.rows, own.total)
            assert row == store.rows(sql)
        for sql, columns in zip(QUERIES[2:], arrays, strict=True):
            for name, column in store.arrays(sql).items():
                assert np.ma.isMaskedArray(columns[name]) == np.ma.isMaskedArray(column)
                assert columns[name].tolist() == column.tolist()


def test_what_is_wrong_is_said_and_the_next_is_answered(
    run: RunDirectory, client: DaemonClient
) -> None:
    for sql in ("SELEC 1", "DROP TABLE raw.span", "SELECT 1; SELECT 2", "SELECT * FROM nothing"):
        with pytest.raises(UsageError):
            client.query(sql)
    with pytest.raises(UsageError, match="no view"):
        client.view("raw.span; DROP TABLE x")
    for request in ({"verb": "sql"}, {"verb": "sql", "sql": 7}, {"verb": ["x"]}, {}):
        header, _ = next(client._frames(request))
        assert header["error"]["class"] == "UsageError"
    assert client.rows("SELECT $1 + 1", [41]) == [(42,)]


def test_status_tells_what_it_does(
    run: RunDirectory, open_rank: OpenRank, client: DaemonClient
) -> None:
    record(open_rank(0), 1000)
    assert client.rows("SELECT count(*) FROM spans") == [(1000,)]
    status = client.status()
    assert status["rows"] >= 1000
    assert status["hot_rows"] >= 1000
    assert status["runs"] == [{"run_id": run.run_id, "status": "running"}]
    assert status["warnings"] == []
    lag = status["lag"]["last_minute"]
    assert lag["count"] >= 1000
    assert 0 < lag["p50_s"] <= lag["p99_s"] <= lag["max_s"] < 10
    assert status["rss_bytes"] > 0
    assert status["clients"] == 1


def test_a_run_without_processes_here_has_no_stacks(
    run: RunDirectory, client: DaemonClient
) -> None:
    with pytest.raises(Unreachable, match="no process"):
        client.stacks("last")


def test_a_dump_holds_all_that_was_recorded(
    home: Path, run: RunDirectory, open_rank: OpenRank, client: DaemonClient, tmp_path: Path
) -> None:
    record(open_rank(0), 1234)
    client.dump("last", tmp_path / "dump.zip")
    assert (tmp_path / "dump.zip").stat().st_size > 1000
    assert sum(1 for _ in home.glob("parquet/span/**/*.parquet")) == 1
    assert client.rows("SELECT count(*) FROM spans") == [(1234,)]


def test_another_collector_is_read_by_its_socket(
    home: Path,
    tmp_path: Path,
    run: RunDirectory,
    client: DaemonClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    note = Note.read(home)
    assert note is not None
    monkeypatch.setenv("OPSUITE_COLLECTOR", note.socket)
    with open_store(tmp_path / "elsewhere") as store:
        assert store.rows("SELECT run_id FROM runs") == [(run.run_id,)]
    monkeypatch.setenv("OPSUITE_COLLECTOR", str(tmp_path / "nobody.sock"))
    with pytest.raises(Unreachable, match="no collector"):
        open_store(tmp_path / "elsewhere")


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 24 MB with the home on it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    monkeypatch.setenv("OPSUITE_HOME", str(disk / "home"))
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As everywhere, but on the small disk where a test asks for that."""
    if "small_disk" in request.fixturenames:
        return request.getfixturevalue("small_disk") / "home"  # type: ignore[no-any-return]
    path = tmp_path / "home"
    monkeypatch.setenv("OPSUITE_HOME", str(path))
    return path


def test_a_full_disk_is_told_and_nothing_is_lost(
    small_disk: Path,
    home: Path,
    run: RunDirectory,
    open_rank: OpenRank,
    client: DaemonClient,
    eventually: Eventually,
) -> None:
    recorder = open_rank(0)
    record(recorder, 100)
    assert client.rows("SELECT count(*) FROM spans") == [(100,)]
    filler = small_disk / "filler"
    with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    with pytest.raises(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1 << 10))
    record(recorder, 2000)
    eventually(lambda: any("no space left" in text for text in client.status()["warnings"]))
    time.sleep(1.0)
    filler.unlink()
    eventually(lambda: client.status()["warnings"] == [])
    eventually(lambda: client.rows("SELECT count(*) FROM spans") == [(2100,)])


def test_an_alert_is_raised_told_and_recorded(
    home: Path,
    run: RunDirectory,
    open_rank: OpenRank,
    client: DaemonClient,
    eventually: Eventually,
) -> None:
    record(open_rank(0), 10)
    (home / "alerts.toml").write_text(
        '[[alert]]\nname = "many"\nevery_s = 1\nkey = ["run_id"]\n'
        'sql = "SELECT run_id, count(*) AS n FROM spans GROUP BY run_id HAVING n >= 10"\n'
        '[[alert]]\nname = "wrong"\nevery_s = 1\nsql = "SELECT nothing"\n'
    )
    seen = "SELECT rule, count(*) FROM alerts GROUP BY rule"
    eventually(lambda: client.rows(seen) == [("many", 1)])
    alerts = client.status()["alerts"]
    assert [rule["name"] for rule in alerts["rules"] if rule["error"]] == ["wrong"]
    [warning] = client.status()["warnings"]
    assert warning.startswith("alert wrong cannot be looked for: ")
