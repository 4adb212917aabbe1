"""Each record is in the store once, whoever opens it and whatever state its file is in."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import duckdb
import pytest

from collectors.errors import StorageError, TimedOut
from collectors.query.direct import Store
from collectors.store.lock import StoreLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from collectors.recorder import Recorder
    from collectors.run import RunDirectory

    OpenRank = Callable[[int | None], Recorder]

VIEWS = ("runs", "ranks", "processes", "spans", "collectives", "samples", "events", "phases")


def everything(home: Path) -> dict[str, list[tuple[object, ...]]]:
    with Store.open(home) as store:
        return {view: store.rows(f"FROM {view} ORDER BY ALL") for view in VIEWS}


def record_a_little(recorder: Recorder, steps: int) -> None:
    for step in range(steps):
        with recorder.span("step", step), recorder.span("forward", step):
            recorder.sample("loss", 1 / (step + 1), step)
        recorder.event("saved", subject=step, attributes={"path": f"step-{step}"})


def test_live_reading_gives_each_record_once(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    """The store is opened again and again while a rank records into several segments."""
    recorder = open_rank(0)
    enough = threading.Event()
    written = 0

    def work() -> None:
        nonlocal written
        while not enough.is_set() or written < 20_000:
            recorder.record_span("forward", written, written + 1, written)
            written += 1
            if written % 50 == 0:
                time.sleep(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    seen = []
    for _ in range(6):
        with Store.open(home) as store:
            [(rows, steps)] = store.rows("SELECT count(*), count(DISTINCT step) FROM spans")
        seen.append((rows, steps))
    enough.set()
    thread.join()
    assert all(rows == steps for rows, steps in seen)
    assert len(set(seen)) > 2, "it was not read while it was written"
    with Store.open(home) as store:
        [answer] = store.rows("SELECT count(*), count(DISTINCT step), max(step) + 1 FROM spans")
    assert answer == (written, written, written)


def test_two_processes_open_it_at_once(home: Path, run: RunDirectory, open_rank: OpenRank) -> None:
    record_a_little(open_rank(0), 3000)
    script = (
        "import sys; from pathlib import Path; from collectors.query.direct import Store\n"
        "with Store.open(Path(sys.argv[1])) as store:\n"
        "    print(store.rows('SELECT count(*) FROM spans')[0][0])"
    )
    command = [sys.executable, "-c", script, str(home)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["6000\n", "6000\n"]


def test_a_store_that_a_daemon_keeps_is_a_time_out(home: Path, run: RunDirectory) -> None:
    Store.open(home).close()
    daemon = StoreLock(home / "store.lock")
    daemon.exclude(1.0)
    with pytest.raises(TimedOut, match=f"process {os.getpid()}"):
        Store.open(home, timeout_s=0.1)
    daemon.release()
    with Store.open(home, timeout_s=0.1) as store:
        assert store.rows("SELECT run_id FROM runs") == [(run.run_id,)]


def test_several_read_side_by_side(home: Path, run: RunDirectory, open_rank: OpenRank) -> None:
    """The second does not wait for the first, and sees what was recorded since."""
    record_a_little(open_rank(0), 10)
    with Store.open(home) as first:
        record_a_little(open_rank(1), 5)
        with Store.open(home, timeout_s=0.1) as second:
            assert second.rows("SELECT count(*) FROM spans") == [(30,)]
        assert first.rows("SELECT count(*) FROM spans") == [(20,)]


def test_a_shell_in_the_index_does_not_keep_anybody_from_reading(
    home: Path, run: RunDirectory, open_rank: OpenRank, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody's own DuckDB; the file is not taken for damaged."""
    Store.open(home).close()
    record_a_little(open_rank(0), 10)
    script = (
        "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print('open', flush=True); "
        "sys.stdin.read()"
    )
    path = home / "store.duckdb"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline()
        with Store.open(home) as store:
            assert store.rows("SELECT count(*) FROM spans") == [(20,)]
    assert "another program" in caplog.text
    assert not list(home.glob("*.broken-*"))


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:7000])


def spoil_log(path: Path) -> None:
    """A writer died with changes in its log, and the log was damaged after that."""
    script = (
        "import duckdb, os, sys; connection = duckdb.connect(sys.argv[1])\n"
        "connection.execute('CREATE TABLE raw.more AS SELECT range AS a FROM range(5000)')\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)
    log = path.with_name(f"{path.name}.wal")
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 255
    log.write_bytes(content)


def from_the_future(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE raw.meta SET schema_version = 99")


def of_somebody_else(path: Path) -> None:
    path.unlink()
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA raw; CREATE TABLE raw.meta (other INTEGER)")


@pytest.mark.parametrize("spoil", [overwrite, cut, spoil_log, from_the_future, of_somebody_else])
def test_a_file_that_cannot_be_used_is_made_again(
    home: Path,
    run: RunDirectory,
    open_rank: OpenRank,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], None],
) -> None:
    """The same rows come from the spools; the old file is kept aside, and said so."""
    first, second = open_rank(0), open_rank(1)
    record_a_little(first, 200)
    before = everything(home)
    record_a_little(second, 50)
    spoil(home / "store.duckdb")
    with Store.open(home) as store:
        assert store.rows("SELECT count(*) FROM spans") == [(500,)]
    assert "made again" in caplog.text
    assert list(home.glob("store.duckdb.broken-*"))
    after = everything(home)
    kept = {view: [row for row in after[view] if row in set(before[view])] for view in VIEWS}
    assert {**kept, "runs": before["runs"]} == before


def test_files_are_for_the_owner_only(home: Path, run: RunDirectory) -> None:
    Store.open(home).close()
    for path in (home, run.path, run.spool):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (home / "store.duckdb", home / "store.lock", run.path / "run.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_home_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="opening the store"):
        Store.open(tmp_path / "file" / "home")


def test_damage_and_drops_are_visible(home: Path, run: RunDirectory, open_rank: OpenRank) -> None:
    recorder = open_rank(0)
    record_a_little(recorder, 2000)
    recorder.close()
    [segment] = run.spool.glob("*.00000.seg")
    content = bytearray(segment.read_bytes())
    content[4096 + 70_000] ^= 255
    content[32:48] = (7).to_bytes(8, "little") + (2**64 - 8).to_bytes(8, "little")
    segment.write_bytes(content)
    with Store.open(home) as store:
        assert store.rows("SELECT dropped, damaged FROM runs") == [(7, 1)]
        assert store.rows("SELECT file, position FROM damage") == [(segment.name, 4096 + 65536)]
        assert store.rows("SELECT dropped FROM processes") == [(7,)]
        [(spans,)] = store.rows("SELECT count(*) FROM spans")
    assert 4000 - 1023 <= spans < 4000


def test_a_killed_run_reads_as_lost(home: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from collectors.run import RunDirectory\n"
        "RunDirectory.create(Path(sys.argv[1]), name='x', kind='training', command=[], config={},"
        " world_size=1)\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(home)], check=False, timeout=60)
    with Store.open(home) as store:
        assert store.rows("SELECT status, duration_s FROM runs") == [("lost", None)]


def test_ranks_of_one_host_share_one_clock(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    """Equal monotonic times are equal in the store, though each rank read the wall for itself."""
    for rank in (0, 1):
        open_rank(rank).record_span("forward", 1000, 2000, 0)
    with Store.open(home) as store:
        assert store.rows("SELECT count(DISTINCT start_ns), count(*) FROM spans") == [(1, 2)]
        [(start_ns,)] = store.rows("SELECT min(start_ns) FROM spans")
    now_wall = time.time_ns() - time.monotonic_ns()
    assert abs(start_ns - 1000 - now_wall) < 1e9


def test_names_of_attributes_survive_several_openings(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    recorder = open_rank(None)
    for number in range(5):
        recorder.event("request.arrived", subject=number, attributes={"id": f"cmpl-{number}"})
        Store.open(home).close()
    with Store.open(home) as store:
        rows = store.rows("SELECT id FROM requests ORDER BY request")
    assert Counter(rows) == {(f"cmpl-{number}",): 1 for number in range(5)}
