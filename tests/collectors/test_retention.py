"""What is removed and thinned: the policy over many made-up homes, and the deed on real files."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.errors import ConfigError, UsageError
from collectors.labels import change_labels
from collectors.query.direct import Store
from collectors.retention import removal
from collectors.retention.keeper import RetentionKeeper, live_seals, load_retention
from collectors.retention.policy import Batch, Kept, RetentionConfig, plan_retention
from collectors.retention.removal import remove_run, sweep
from collectors.retention.usage import measure_run, run_parquet
from collectors.run import list_runs
from collectors.store.sole_collector import sole_collector

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from collectors.recorder import Recorder
    from collectors.run import RunDirectory

    OpenRank = Callable[[int | None], Recorder]

DAY_NS = 86_400 * 10**9
NOW_NS = 1000 * DAY_NS


def kept(run_id: str, days: float, size: int, *, fixed: bool = False, **more: object) -> Kept:
    ended_ns = NOW_NS - int(days * DAY_NS)
    run = Kept(run_id=run_id, bytes=size, ended_ns=ended_ns, fixed=fixed)
    return replace(run, **more)  # type: ignore[arg-type]


def test_age_goes_before_size_and_the_oldest_first() -> None:
    runs = [
        kept("new", 1, 50),
        kept("old", 40, 10),
        kept("mid", 10, 60),
        kept("pin", 99, 5, fixed=True),
    ]
    config = RetentionConfig(keep_days=30, max_size="100B")
    plan = plan_retention(runs, config, NOW_NS)
    assert [(one.run_id, one.why) for one in plan.removals] == [
        ("old", "ended 40 days ago"),
        ("mid", "all runs take more than 100 B"),
    ]
    assert plan.over_bytes == 0


def test_by_default_no_run_goes() -> None:
    plan = plan_retention([kept("old", 999, 10**12)], RetentionConfig(), NOW_NS)
    assert (plan.removals, plan.thinnings, plan.over_bytes) == ((), (), 0)


def test_a_long_run_loses_its_oldest_rows_even_if_it_runs() -> None:
    batches = tuple(Batch(seal_id=f"s{i}", rows=10, bytes=40) for i in range(5))
    run = kept("long", 0, 250, fixed=True, batches=batches)
    [thinning] = plan_retention([run], RetentionConfig(run_cap="100B"), NOW_NS).thinnings
    assert (thinning.seal_ids, thinning.rows, thinning.bytes) == (("s0", "s1", "s2"), 30, 120)


RUNS = st.lists(
    st.builds(
        kept,
        st.uuids().map(str),
        st.floats(0, 100),
        st.integers(0, 1000),
        fixed=st.booleans(),
        batches=st.lists(
            st.builds(
                Batch,
                seal_id=st.uuids().map(str),
                rows=st.integers(0, 9),
                bytes=st.integers(0, 99),
            ),
            max_size=5,
        ).map(tuple),
    ),
    max_size=12,
)


@given(runs=RUNS, days=st.sampled_from([0, 20]), most=st.integers(1, 4000), cap=st.integers(1, 300))
def test_the_policy_holds_its_promises(runs: list[Kept], days: int, most: int, cap: int) -> None:
    config = RetentionConfig(keep_days=days, max_size=f"{most}B", run_cap=f"{cap}B")
    plan = plan_retention(runs, config, NOW_NS)
    by_id = {run.run_id: run for run in runs}
    gone = {one.run_id for one in plan.removals}
    assert plan == plan_retention(list(reversed(runs)), config, NOW_NS)
    assert len(gone) == len(plan.removals)
    assert not any(by_id[run_id].fixed for run_id in gone)
    assert not gone & {one.run_id for one in plan.thinnings}
    left = sum(run.bytes for run in runs if run.run_id not in gone)
    left -= sum(one.bytes for one in plan.thinnings)
    assert plan.over_bytes == max(0, left - most)
    if plan.over_bytes:
        assert all(run.fixed for run in runs if run.run_id not in gone)
    ages = [by_id[run_id].ended_ns for run_id in gone]
    stayed = [run.ended_ns for run in runs if not run.fixed and run.run_id not in gone]
    assert not ages or not stayed or max(ages) <= min(stayed)


def record(open_rank: OpenRank, rank: int | None = 0, spans: int = 200) -> None:
    recorder = open_rank(rank)
    for i in range(spans):
        recorder.record_span("step", i * 1000, i * 1000 + 500, i)
    recorder.close()


def seal(home: Path) -> None:
    with sole_collector(home) as collector:
        collector.seal(force=True)


def count(home: Path, table: str = "spans") -> int:
    with Store.open(home) as store:
        return int(store.rows(f"SELECT count(*) FROM {table}")[0][0])


def test_removing_leaves_nothing(home: Path, run: RunDirectory, open_rank: OpenRank) -> None:
    record(open_rank)
    with pytest.raises(UsageError, match="is running"):
        remove_run(home, run.run_id)
    run.finish("finished", 0)
    seal(home)
    assert measure_run(home, run.run_id).parquet > 0
    assert count(home) == 200
    remove_run(home, run.run_id)
    assert list_runs(home) == []
    assert not any(path.exists() for path in run_parquet(home, run.run_id))
    assert count(home) == 0


def test_a_crash_while_removing_is_made_good(
    home: Path, run: RunDirectory, open_rank: OpenRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(open_rank)
    run.finish("finished", 0)
    seal(home)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(removal, "_remove", die)
        remove_run(home, run.run_id)
    assert count(home) == 0, "gone with the renaming, although its files are there"
    assert any(path.exists() for path in run_parquet(home, run.run_id))
    sweep(home)
    assert not any(path.exists() for path in run_parquet(home, run.run_id))
    [grave] = (home / "runs").iterdir()
    os.utime(grave, (1, 1))
    sweep(home)
    assert list((home / "runs").iterdir()) == []


def test_the_keeper_thins_a_run_over_its_cap(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    for rank in range(4):
        record(open_rank, rank, 5000)
        seal(home)
    run.finish("finished", 0)
    sizes = [
        f.bytes for one in live_seals(home, run.run_id) for f in one.files if f.table == "span"
    ]
    (home / "collect.toml").write_text(f'[retention]\nrun_cap = "{sum(sizes) // 2}B"\n')
    assert count(home) == 20_000
    with sole_collector(home) as collector:
        plan = RetentionKeeper(home, collector.thin).tick(NOW_NS)
        assert plan is not None
        assert [one.run_id for one in plan.thinnings] == [run.run_id]
        again = RetentionKeeper(home, collector.thin)
    rows = plan.thinnings[0].rows
    assert 0 < rows < 20_000
    assert count(home) == 20_000 - rows
    assert sum(one.expired for one in live_seals(home, run.run_id)) == rows
    with Store.open(home) as store:
        assert store.rows("SELECT sum(count) FROM rollups WHERE name = 'step'") == [(20_000,)]
    again.tick(NOW_NS)
    assert again.tick(NOW_NS + 1) is None, "only so often"


def test_the_keeper_keeps_what_is_pinned_and_what_it_cannot_judge(
    home: Path, run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "collect.toml").write_text("[retention]\nkeep_days = 1\n")
    run.finish("finished", 0)
    later_ns = (run.manifest.ended_ns or 0) + 2 * DAY_NS

    def tick() -> None:
        RetentionKeeper(home, lambda run_id, seal_ids: 0).tick(later_ns)

    change_labels(run.path, lambda labels: replace(labels, pinned=True))
    tick()
    (run.path / "labels.json").write_text("garbage")
    tick()
    assert run.path.exists()
    assert "kept as if it were pinned" in caplog.text
    (run.path / "labels.json").unlink()
    tick()
    assert not run.path.exists()


def test_a_wrong_file_is_told_once_and_removes_nothing(
    home: Path, run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "collect.toml").write_text('[retention]\nmax_size = "lots"\n')
    with pytest.raises(ConfigError, match="no size"):
        load_retention(home)
    run.finish("finished", 0)
    keeper = RetentionKeeper(home, lambda run_id, seal_ids: 0, every_s=1.0)
    for second in range(3):
        assert keeper.tick(NOW_NS + second * 10**9) is None
    assert caplog.text.count("no size") == 1
    assert run.path.exists()


def test_a_run_is_removed_beside_a_collector(
    home: Path, run: RunDirectory, open_rank: OpenRank
) -> None:
    record(open_rank)
    run.finish("finished", 0)
    with sole_collector(home) as collector:  # it has rows of the run that are not sealed
        remove_run(home, run.run_id)
        collector.seal(force=True)  # it may not have seen yet that the run is gone
        collector.tick()
        assert collector.snapshot.run_ids == ()
        collector.maintain()
        sweep(home)
    assert not any(path.exists() for path in run_parquet(home, run.run_id))
    assert count(home) == 0
