"""``opsuite runs du|rm|pin|tag|gc|rebuild``: what goes, what stays, and what is asked first."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from collectors.clock import host_name
from collectors.recorder import Identity, open_recorder
from collectors.run import RunDirectory, list_runs
from collectors.store.lock import StoreLock
from collectors.store.sole_collector import sole_collector
from opsuite.cli.main import app

if TYPE_CHECKING:
    from pathlib import Path


def opsuite(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["runs", *arguments])


def make(home: Path, name: str, *, steps: int = 3) -> RunDirectory:
    """A run that has ended."""
    run = RunDirectory.create(home, name=name, kind="training", command=[], config={}, world_size=1)
    identity = Identity(
        run_id=run.run_id,
        role="trainer",
        rank=0,
        world_size=1,
        host=host_name(),
        coordinates={},
    )
    recorder = open_recorder(run.spool, identity)
    for step in range(steps):
        recorder.record_span("step", step * 10**9, step * 10**9 + 1000 * step, step)
    recorder.close()
    run.finish("finished", 0)
    return run


def listed(*options: str) -> list[str]:
    rows = json.loads(opsuite("list", "--json", *options).stdout)
    return [row["run_id"].partition("-")[0] for row in rows]


def test_labels_and_filters_of_the_list(home: Path) -> None:
    for name in ("a", "b", "c"):
        make(home, name)
    assert opsuite("tag", "b", "+base", "+half").stdout == "base\nhalf\n"
    assert opsuite("tag", "b", "-half").stdout == "base\n"
    assert opsuite("tag", "c", "+base", "+x").exit_code == 0
    assert opsuite("pin", "a").exit_code == 0
    assert listed() == ["c", "b", "a"]
    assert listed("--tag", "base") == ["c", "b"]
    assert listed("--tag", "base", "--tag", "x") == ["c"]
    assert listed("--limit", "2") == ["c", "b"]
    assert listed("--kind", "serving") == []
    lines = opsuite("list").stdout.splitlines()
    assert lines[0].split()[-1] == "labels"
    assert [line.split()[-1] for line in lines[2:]] == ["x", "base", "pinned"]
    shown = json.loads(opsuite("show", "b", "--json").stdout)
    assert (shown["pinned"], shown["tags"]) == (False, ["base"])
    assert "2 of 3 runs" in opsuite("list", "--limit", "2").stderr


@pytest.mark.parametrize("change", ["base", "+a b", "+"])
def test_what_is_no_tag(home: Path, change: str) -> None:
    make(home, "a")
    answer = opsuite("tag", "a", change)
    assert (answer.exit_code, answer.stdout) == (2, "")


def test_du_adds_up(home: Path) -> None:
    small, large = make(home, "small"), make(home, "large")
    (large.checkpoints / "model").write_bytes(bytes(100_000))
    with sole_collector(home) as collector:
        collector.seal(force=True)
    told = json.loads(opsuite("du", "--json").stdout)
    assert [row["run_id"] for row in told["runs"]] == [large.run_id, small.run_id]
    for row in told["runs"]:
        assert row["total"] == sum(v for k, v in row.items() if k not in ("run_id", "total"))
        assert row["parquet"] > 0
    assert told["runs"][0]["checkpoints"] >= 100_000
    both = sum(row["total"] for row in told["runs"])
    assert told["total"] == both + sum(told["shared"].values())
    assert "large-" in opsuite("du").stdout


def test_rm_asks_and_refuses(home: Path) -> None:
    run, pinned = make(home, "a"), make(home, "b")
    opsuite("pin", "b")
    live = RunDirectory.create(home, name="c", kind="training", command=[], config={}, world_size=1)
    unasked = opsuite("rm", "a")
    assert (unasked.exit_code, "--yes" in unasked.stderr) == (2, True)
    for reference, why in (("b", "is pinned"), ("c", "is running"), ("nope", "there is no run")):
        answer = opsuite("rm", "a", reference, "--yes")
        assert answer.exit_code in (2, 3)
        assert why in answer.stderr
    assert len(list_runs(home)) == 3, "of several, one that may not go keeps them all"
    assert opsuite("rm", "a", run.run_id, "--yes").exit_code == 0
    assert opsuite("rm", "c", "--yes", "--force").exit_code == 0
    assert [one.run_id for one in list_runs(home)] == [pinned.run_id]
    assert listed() == ["b"]
    assert not live.path.exists()


def test_a_run_that_cannot_be_read_can_be_removed(home: Path) -> None:
    run = make(home, "a")
    (run.path / "run.json").write_text("garbage")
    assert opsuite("rm", run.run_id, "--yes").exit_code == 1
    assert opsuite("rm", run.run_id, "--yes", "--force").exit_code == 0
    assert not run.path.exists()


def test_gc_says_first_and_does_then(home: Path) -> None:
    runs = [make(home, name) for name in "abc"]
    for run, days in zip(runs, (40, 20, 1), strict=True):
        run.manifest = replace(
            run.manifest, ended_ns=(run.manifest.ended_ns or 0) - days * 86_400 * 10**9
        )
        run._write_manifest()
    assert "nothing is to go" in opsuite("gc").stderr
    plan = json.loads(opsuite("gc", "--keep-days", "30", "--dry-run", "--json").stdout)
    assert [one["run_id"] for one in plan["removals"]] == [runs[0].run_id]
    assert len(list_runs(home)) == 3
    (home / "collect.toml").write_text("[retention]\nkeep_days = 10\n")
    answer = opsuite("gc", "--yes")
    assert answer.exit_code == 0
    assert "ended 40 days ago" in answer.stdout
    assert listed() == ["c"]
    opsuite("pin", "c")
    assert "too much" in opsuite("gc", "--max-size", "1B", "--yes").stderr
    assert listed() == ["c"]
    assert opsuite("gc", "--max-size", "lots").exit_code == 2


def test_gc_thins_or_leaves_it_to_whoever_has_the_store(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(home, "long")
    for _ in range(2):
        identity = Identity(
            run_id=run.run_id, role="x", rank=None, world_size=1, host="h", coordinates={}
        )
        recorder = open_recorder(run.spool, identity)
        for i in range(3000):
            recorder.sample("noise", hash(str(i)) / 7)
        recorder.close()
        with sole_collector(home) as collector:
            collector.seal(force=True)
    monkeypatch.setattr("opsuite.cli.runs.storage._LOCK_S", 0.1)
    lock = StoreLock(home / "store.lock")
    lock.share(1.0)
    answer = opsuite("gc", "--run-cap", "1KB", "--yes")
    assert (answer.exit_code, "left to the collector" in answer.stderr) == (0, True)
    lock.release()
    assert "thin" in opsuite("gc", "--run-cap", "1KB", "--yes").stdout
    assert "nothing" not in opsuite("gc", "--run-cap", "100B", "--dry-run").stdout


def test_rebuild_gives_the_same_store(home: Path) -> None:
    make(home, "a")
    with sole_collector(home) as collector:
        collector.seal(force=True)
    make(home, "b")
    before = opsuite("list", "--json").stdout
    (home / "store.duckdb").write_bytes(b"garbage")
    assert opsuite("rebuild").exit_code == 0
    assert opsuite("list", "--json").stdout == before
    assert not list(home.glob("store.duckdb.broken-*"))
