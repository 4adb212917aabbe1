"""``opsuite runs``: what there is, and how one went."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from collectors.clock import host_name
from collectors.recorder import Identity, open_recorder
from collectors.run import RunDirectory
from opsuite.cli.main import app

if TYPE_CHECKING:
    from pathlib import Path


def opsuite(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["runs", *arguments])


def record(run: RunDirectory, rank: int) -> None:
    identity = Identity(
        run_id=run.run_id,
        role="trainer",
        rank=rank,
        world_size=2,
        host=host_name(),
        coordinates={"tp": rank},
    )
    recorder = open_recorder(run.spool, identity)
    for step in range(4):
        start = step * 10**9
        recorder.record_span("step", start, start + 5 * 10**8, step)
        recorder.record_span("forward", start, start + (rank + 1) * 10**8, step)
        if rank == 0:
            recorder.sample("loss", 4.0 - step, step)
            recorder.sample("tokens", 1000, step)
    recorder.close()


@pytest.fixture
def run(home: Path) -> RunDirectory:
    run = RunDirectory.create(
        home,
        name="demo",
        kind="training",
        command=["opsuite", "launch", "a b.toml"],
        config={"train": {"steps": 4}},
        world_size=2,
    )
    for rank in (0, 1):
        record(run, rank)
    (run.logs / "rank0.log").touch()
    return run


def test_show_tells_where_the_time_goes(run: RunDirectory) -> None:
    run.finish("failed", 1)
    shown = json.loads(opsuite("show", "--json").stdout)
    assert shown["status"] == "failed"
    assert shown["exit_code"] == 1
    assert shown["steps"] == 4
    assert shown["tokens_per_s"] == pytest.approx(2000)
    assert shown["loss"] == {"first": 4.0, "last": 1.0}
    assert shown["config"] == {"train": {"steps": 4}}
    assert [(p["phase"], p["rank"], p["own_s"]) for p in shown["phases"]] == [
        ("forward", 0, 0.1),
        ("forward", 1, 0.2),
    ]
    assert shown["logs"] == [str(run.logs / "rank0.log")]
    text = opsuite("show", run.run_id).stdout
    for part in ("opsuite launch 'a b.toml'", "steps = 4", "4 -> 1", "forward", "rank0.log"):
        assert part in text


def test_the_list_has_the_newest_first(home: Path, run: RunDirectory) -> None:
    newer = RunDirectory.create(
        home, name="newer", kind="serving", command=[], config={}, world_size=1
    )
    listed = json.loads(opsuite("list", "--json").stdout)
    assert [(row["run_id"], row["steps"], row["loss"]) for row in listed] == [
        (newer.run_id, None, None),
        (run.run_id, 4, 1.0),
    ]
    assert listed[0]["duration_s"] > 0
    lines = opsuite("list").stdout.splitlines()
    assert lines[0].split()[:3] == ["run_id", "kind", "status"]
    assert len(lines) == 4


def test_no_runs_are_no_error(home: Path) -> None:
    answer = opsuite("list", "--json")
    assert (answer.exit_code, answer.stdout) == (0, "[]\n")
    assert "no runs yet" in answer.stderr


def test_a_run_that_is_not_there(run: RunDirectory) -> None:
    answer = opsuite("show", "nope")
    assert (answer.exit_code, answer.stdout) == (3, "")
    assert run.run_id in answer.stderr


def test_a_run_cut_short_shows_what_is_missing(home: Path) -> None:
    RunDirectory.create(home, name="x", kind="training", command=[], config={}, world_size=1)
    shown = json.loads(opsuite("show", "--json").stdout)
    assert shown["loss"] == {"first": None, "last": None}
    assert shown["tokens_per_s"] is None
    assert shown["phases"] == []
    assert "n/a" in opsuite("show").stdout
