"""The collector stores every record once, whatever interrupts it, and cleans up after itself."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.errors import DataError
from collectors.store import collector as collector_module
from collectors.store.collector import Collector
from collectors.store.hot import HotFile, HotTier
from collectors.store.index import Index
from collectors.store.seal import Seal, decode_seal, new_seal_id, seals_directory
from collectors.store.sealing import SealingLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from collectors.recorder import Recorder
    from collectors.run import RunDirectory

    OpenRank = Callable[[int | None], Recorder]

MINUTE_NS = 60 * 10**9


class Clock:
    """A wall clock that the test turns."""

    def __init__(self) -> None:
        self.now_ns = 1_800_000_000 * 10**9

    def __call__(self) -> int:
        return self.now_ns


@contextmanager
def collecting(home: Path, clock: Clock | None = None, **limits: Any) -> Iterator[Collector]:
    """A collector that may seal; at the end its process is as good as killed."""
    index = Index(home)
    try:
        yield Collector(home, index, wall_ns=clock or Clock(), limits=SealingLimits(**limits))
    finally:
        index.close()


def steps_of(collector: Collector, table: str = "span") -> list[int]:
    """What a session would read: the steps of all rows of a table."""
    sources = collector.snapshot.tables[table]
    steps = [pq.ParquetFile(path).read()["step"].to_pylist() for path in sources.parquet]
    steps += [_hot(path)["step"].to_pylist() for path in sources.hot]
    return sorted(itertools.chain.from_iterable(steps))


def _hot(path: str) -> Any:
    from pathlib import Path

    return HotFile(table="", path=Path(path), rows=0).read()


@pytest.mark.parametrize("seed", range(12))
def test_each_record_is_stored_once_whatever_happens_between(
    home: Path, run: RunDirectory, open_rank: OpenRank, seed: int
) -> None:
    """Random readings, seals, merges, crashes, lost indexes, minutes that pass."""
    chance, clock = random.Random(seed), Clock()
    ranks, recorded = [open_rank(0), open_rank(1)], 0
    for _ in range(6):
        with collecting(home, clock, merge_count=2) as collector:
            for _ in range(chance.randrange(1, 12)):
                for _ in range(chance.randrange(300)):
                    ranks[chance.randrange(2)].record_span("forward", 1, 2, step=recorded)
                    recorded += 1
                action = chance.choice(["tick", "seal", "maintain", "wait", "close"])
                if action == "wait":
                    clock.now_ns += chance.randrange(-2, 5) * MINUTE_NS
                elif action == "close":
                    ranks[chance.randrange(2)].close()
                    ranks = [open_rank(0), open_rank(1)]
                else:
                    collector.tick()
                    collector.seal(force=True) if action == "seal" else None
                    collector.maintain() if action == "maintain" else None
            collector.tick()
            assert steps_of(collector) == list(range(recorded))
        if chance.random() < 0.3:
            (home / "store.duckdb").unlink()


def test_a_seal_that_fails_leaves_the_rows_hot_and_no_file(
    home: Path, run: RunDirectory, open_rank: OpenRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_rank(0).record_span("forward", 1, 2, step=7)
    with collecting(home) as collector:
        collector.tick()
        with monkeypatch.context() as patch:
            patch.setattr(collector_module, "commit_seal", _no_space)
            with pytest.raises(OSError, match="No space"):
                collector.seal(force=True)
        assert steps_of(collector) == [7]
        assert not list((home / "parquet").rglob("*.parquet"))
        collector.seal(force=True)
        assert steps_of(collector) == [7]
        assert collector.rows_hot == 0


def test_a_reading_that_fails_is_repeated_whole(
    home: Path, run: RunDirectory, open_rank: OpenRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = open_rank(0)
    with collecting(home) as collector:
        rank.record_span("forward", 1, 2, step=1)
        collector.tick()
        rank.record_span("forward", 1, 2, step=2)
        rank.sample("loss", 0.5, step=3)
        with monkeypatch.context() as patch:
            patch.setattr(HotTier, "write", _no_space)
            with pytest.raises(OSError, match="No space"):
                collector.tick()
        assert steps_of(collector) == [1]
        collector.tick()
        assert steps_of(collector) == [1, 2]
        assert steps_of(collector, "sample") == [3]


def _no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_a_merge_replaced_does_not_count_twice_after_a_crash(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    """The crash comes between the commit of the merged seal and the removal of the old ones."""
    rank = open_rank(0)
    seals = seals_directory(home / "parquet", run.run_id)
    with collecting(home, merge_count=2) as collector:
        for step in range(2):
            rank.record_span("forward", 1, 2, step=step)
            collector.tick()
            collector.seal(force=True)
        old = {path: path.read_bytes() for path in seals.iterdir()}
        collector.maintain()
        assert len(list(seals.iterdir())) == 1
    for path, content in old.items():
        path.write_bytes(content)
    (home / "store.duckdb").unlink()
    with collecting(home, merge_count=2) as collector:
        collector.tick()
        assert steps_of(collector) == [0, 1]
        assert len(list(seals.iterdir())) == 1
        rank.record_span("forward", 1, 2, step=2)
        collector.tick()
        collector.seal(force=True)
        collector.maintain()  # the merged seal is replaced itself
    (home / "store.duckdb").unlink()
    with collecting(home) as collector:
        collector.tick()
        assert steps_of(collector) == [0, 1, 2]


def test_sealed_segments_and_hot_files_go_and_nothing_is_missed(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    clock, rank = Clock(), open_rank(0)
    rank.record_span("forward", 1, 2, step=5)
    rank.close()
    with collecting(home, clock) as collector:
        collector.tick()
        collector.seal(force=True)
        collector.maintain()
        assert list(run.spool.iterdir())
        clock.now_ns += 2 * MINUTE_NS
        collector.maintain()
        assert not list(run.spool.iterdir())
        kept = {path.name.partition("-")[2] for path in (home / "hot").rglob("*.arrow")}
        assert kept == {"run.arrow", "process.arrow", "damage.arrow"}
    (home / "store.duckdb").unlink()
    with collecting(home) as collector:
        collector.tick()
        assert steps_of(collector) == [5]
        [process] = _hot(collector.snapshot.tables["process"].hot[0]).to_pylist()
        assert process["rank"] == 0


def test_a_clock_that_jumps_back_does_not_keep_rows_from_being_sealed(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    clock, rank = Clock(), open_rank(0)
    with collecting(home, clock) as collector:
        for step in range(3):
            rank.record_span("forward", 1, 2, step=step)
            collector.tick()
            clock.now_ns -= 60 * MINUTE_NS
            assert collector.seal()
        assert steps_of(collector) == [0, 1, 2]
        assert collector.rows_hot == 0


def test_a_missing_sealed_file_is_told_and_the_rest_is_there(
    home: Path, run: RunDirectory, open_rank: OpenRank, caplog: pytest.LogCaptureFixture
) -> None:
    clock, rank = Clock(), open_rank(0)
    with collecting(home, clock) as collector:
        for step in range(2):
            rank.record_span("forward", 1, 2, step=step)
            collector.tick()
            collector.seal(force=True)
            clock.now_ns += MINUTE_NS
    next(iter(sorted((home / "parquet" / "span").rglob("*.parquet")))).unlink()
    with collecting(home) as collector:
        collector.tick()
        assert steps_of(collector) == [1]
    assert "a sealed file is missing" in caplog.text


def test_rows_expire_and_their_sums_stay(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    rank = open_rank(0)
    for step in range(10):
        rank.record_span("forward", 0, 2_000_000_000, step=step)
    with collecting(home) as collector:
        collector.tick()
        collector.seal(force=True)
        [seal] = seals_directory(home / "parquet", run.run_id).iterdir()
        assert collector.thin(run.run_id, [seal.stem]) == 10
        assert steps_of(collector) == []
        [path] = collector.snapshot.tables["rollup"].parquet
        [row] = pq.ParquetFile(path).read().to_pylist()
        assert (row["count"], row["total"], row["most"]) == (10, 20.0, 2.0)
        rank.record_span("forward", 1, 2, step=99)
        collector.tick()
        assert steps_of(collector) == [99]


def test_what_a_killed_collector_left_is_cleared(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    open_rank(0).record_span("forward", 1, 2, step=1)
    child = os.fork()
    if not child:
        with collecting(home) as collector:
            collector.tick()
            os._exit(0)
    os.waitpid(child, 0)
    assert list((home / "hot").iterdir())
    orphan = home / f"parquet/span/run={run.run_id}/host=h/hour=2026010100/0.parquet"
    unnamed = home / "parquet/span/run=x/host=h/hour=2026010100/0.parquet"
    for path in (orphan, unnamed):
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (0, 0))
    with collecting(home) as collector:
        collector.tick()
        collector.seal(force=True)
        collector.maintain()
        assert steps_of(collector) == [1]
        assert [path.name.split("-")[0] for path in (home / "hot").iterdir()] == [str(os.getpid())]
    assert not orphan.exists()
    assert unnamed.exists()  # of a run without any seal: it is the seals that are missing


def test_hot_files_that_somebody_removed_are_made_again(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    rank = open_rank(0)
    with collecting(home) as collector:
        rank.record_span("forward", 1, 2, step=1)
        collector.tick()
        collector.seal(force=True)
        rank.record_span("forward", 1, 2, step=2)
        collector.tick()
        shutil.rmtree(home / "hot")
        collector.repair()
        collector.tick()
        assert steps_of(collector) == [1, 2]
        [process] = _hot(collector.snapshot.tables["process"].hot[0]).to_pylist()
        assert process["rank"] == 0


@pytest.mark.parametrize("harm", ["cut file", "corrupt seal"])
def test_what_is_damaged_after_sealing_is_in_the_view_of_damage(
    home: Path, run: RunDirectory, open_rank: OpenRank, harm: str
) -> None:
    rank = open_rank(0)
    with collecting(home) as collector:
        rank.record_span("forward", 1, 2, step=1)
        rank.close()
        collector.tick()
        collector.seal(force=True)
    if harm == "cut file":
        [path] = (home / "parquet" / "span").rglob("*.parquet")
        os.truncate(path, path.stat().st_size - 50)
    else:
        [path] = seals_directory(home / "parquet", run.run_id).iterdir()
        path.write_text("{")
        (home / "store.duckdb").unlink()
    with collecting(home) as collector:
        collector.tick()
        assert steps_of(collector) == [1]  # from the spool, which is still there
        [damage] = _hot(collector.snapshot.tables["damage"].hot[0]).to_pylist()
        assert damage["run_id"] == run.run_id


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_in_a_spool_is_told_and_passed_over(
    home: Path, run: RunDirectory, open_rank: OpenRank, make: Callable[[Path], None]
) -> None:
    open_rank(0).record_span("forward", 1, 2, step=1)
    make(run.spool / "trainer5-99-00000005.00000.seg")
    with collecting(home) as collector:
        collector.tick()
        assert steps_of(collector) == [1]
        [damage] = _hot(collector.snapshot.tables["damage"].hot[0]).to_pylist()
        assert "no segment" in damage["what"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(field=st.sampled_from(sorted(Seal.__dataclass_fields__)), value=_JSON)
def test_a_seal_is_read_as_it_was_written_or_refused(field: str, value: Any) -> None:
    seal = Seal(seal_id=new_seal_id(1), run_id="r", host="h", sealed_ns=1)
    assert decode_seal(seal.encode(), where="", run_id="r") == seal
    data = json.loads(seal.encode()) | {field: value}
    try:
        found = decode_seal(json.dumps(data), where="", run_id="r")
    except DataError:
        return
    assert json.loads(found.encode()) == data


def test_a_seal_of_a_later_version_says_to_upgrade() -> None:
    seal = Seal(seal_id=new_seal_id(1), run_id="r", host="h", sealed_ns=1, format=2)
    with pytest.raises(DataError, match="upgrade opsuite"):
        decode_seal(seal.encode(), where="", run_id="r")
