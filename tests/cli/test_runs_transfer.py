"""``opsuite runs export|import``: another machine lists, shows, queries and diagnoses the run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from collectors.clock import host_name
from collectors.errors import StorageError
from collectors.query.direct import Store
from collectors.recorder import Identity, open_recorder
from collectors.run import RunDirectory
from opsuite.cli.main import app

if TYPE_CHECKING:
    from pathlib import Path


def opsuite(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def run(home: Path) -> RunDirectory:
    """Two ranks in step, rank 1 half as fast in steps 20-39."""
    run = RunDirectory.create(
        home, name="slow", kind="training", command=["opsuite"], config={}, world_size=2
    )
    for rank in (0, 1):
        identity = Identity(
            run_id=run.run_id,
            role="trainer",
            rank=rank,
            world_size=2,
            host=host_name(),
            coordinates={"dp": rank},
        )
        recorder = open_recorder(run.spool, identity)
        for step in range(60):
            start = step * 10**9
            jitter = (step * 7919 + rank * 104_729) % 1000 * 1000
            slow = 2 if 20 <= step < 40 else 1
            arrived = start + 10**8 * (slow if rank else 1) + jitter
            end = start + 10**8 * slow + 2 * 10**6
            recorder.record_span("step", start, end, step)
            recorder.record_span("forward", start, end, step)
            recorder.collective(
                "all_reduce",
                group="dp[0,1]",
                group_size=2,
                sequence=step,
                size_bytes=64,
                start_ns=arrived,
                end_ns=end,
                step=step,
            )
        recorder.close()
    run.finish("finished", 0)
    return run


def test_another_machine_diagnoses_the_same(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.opsuite.zip"
    assert opsuite("runs", "export", "last", "-o", str(path)).stdout == f"{path}\n"
    found = opsuite("diagnose", "--json")
    assert found.exit_code == 1
    monkeypatch.setenv("OPSUITE_HOME", str(tmp_path / "elsewhere"))
    assert opsuite("runs", "import", str(path)).stdout == f"{run.run_id}\n"
    assert json.loads(opsuite("diagnose", "--json").stdout) == json.loads(found.stdout)
    assert run.run_id in opsuite("runs", "list").stdout
    assert json.loads(opsuite("runs", "show", "--json").stdout)["steps"] == 60
    again = opsuite("runs", "import", str(path), "--json")
    assert json.loads(again.stdout)["already"]
    assert "was here already" in again.stderr


def test_a_trace_for_perfetto(run: RunDirectory, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    answer = opsuite(
        "runs", "export", "last", "--format", "perfetto", "--steps", "3-4", "-o", str(path)
    )
    assert answer.exit_code == 0, answer.stderr
    trace = json.loads(path.read_text())
    names = [e["args"]["step"] for e in trace["traceEvents"] if e.get("name") == "forward"]
    assert sorted(names) == [3, 3, 4, 4]
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["x.json"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--steps", "1-2"], "whole run"),
        (["--format", "perfetto", "--steps", "2-1"], "no steps"),
        (["--format", "perfetto", "--steps", "x"], "no steps"),
    ],
)
def test_options_that_do_not_fit(
    run: RunDirectory, tmp_path: Path, options: list[str], why: str
) -> None:
    answer = opsuite("runs", "export", "last", "-o", str(tmp_path / "x"), *options)
    assert (answer.exit_code, why in answer.stderr) == (2, True)


def test_no_file_is_written_over_and_garbage_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("precious")
    assert opsuite("runs", "export", "last", "-o", str(path)).exit_code == 2
    assert path.read_text() == "precious"
    answer = opsuite("runs", "import", str(path))
    assert (answer.exit_code, "not a bundle" in answer.stderr) == (1, True)


def stored(home: Path, sql: str) -> list[tuple[Any, ...]]:
    with Store.open(home) as store:
        return store.rows(sql)


def test_findings_are_stored_once(home: Path, run: RunDirectory) -> None:
    assert stored(home, "FROM findings") == []
    told = json.loads(opsuite("diagnose", "--json").stdout)["findings"]
    assert [finding["ranks"] for finding in told] == [[1]]
    sql = "SELECT kind, ranks, first_step, last_step, share_lost FROM findings"
    assert stored(home, sql) == [
        (f["kind"], f["ranks"], f["steps"][0], f["steps"][1], f["share_lost"]) for f in told
    ]
    opsuite("diagnose")
    count = "SELECT count(*) FROM events WHERE name = 'finding'"
    assert stored(home, count) == [(len(told),)]


def test_findings_that_cannot_be_stored_are_still_told(
    home: Path, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("no space left while recording")

    monkeypatch.setattr("playbooks.publication.annotate", refuse)
    answer = opsuite("diagnose", "--json")
    assert answer.exit_code == 1
    assert len(json.loads(answer.stdout)["findings"]) == 1
    assert "the findings are not stored: no space left" in answer.stderr
