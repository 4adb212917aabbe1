"""``opsuite query``: rows on stdout, the rest on stderr, exit codes for scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from collectors.clock import host_name
from collectors.recorder import Identity, open_recorder
from collectors.run import RunDirectory

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run(home: Path) -> RunDirectory:
    run = RunDirectory.create(
        home, name="ask", kind="training", command=[], config={}, world_size=1
    )
    recorder = open_recorder(
        run.spool,
        Identity(
            run_id=run.run_id,
            role="trainer",
            rank=0,
            world_size=1,
            host=host_name(),
            coordinates={},
        ),
    )
    for step in range(5):
        recorder.record_span("step", step, step + 10**9, step)
        recorder.sample("loss", float("nan") if step == 4 else 4.0 - step, step)
    recorder.close()
    return run


def opsuite(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "opsuite.cli.main", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


def test_rows_as_json_csv_and_table(run: RunDirectory) -> None:
    sql = "SELECT step, loss, grad_norm FROM steps WHERE step >= 3 ORDER BY step"
    answer = opsuite("query", sql, "--json")
    assert json.loads(answer.stdout) == [
        {"step": 3, "loss": 1.0, "grad_norm": None},
        {"step": 4, "loss": None, "grad_norm": None},
    ]
    assert (answer.returncode, answer.stderr) == (0, "")
    answer = opsuite("query", "-", "--format", "csv", stdin=sql)
    assert answer.stdout == "step,loss,grad_norm\n3,1.0,\n4,nan,\n"
    lines = opsuite("query", stdin=sql).stdout.splitlines()
    assert [line.split() for line in (lines[0], *lines[2:])] == [
        ["step", "loss", "grad_norm"],
        ["3", "1", "n/a"],
        ["4", "nan", "n/a"],
    ]


def test_what_is_left_out_is_said(run: RunDirectory) -> None:
    answer = opsuite("query", "FROM steps", "--limit", "2", "--json")
    assert len(json.loads(answer.stdout)) == 2
    assert answer.stderr == "2 of 5 rows; --limit 0 prints all\n"
    answer = opsuite("query", "FROM range(3000)", "--limit", "0", "--format", "csv")
    assert (len(answer.stdout.splitlines()), answer.stderr) == (3001, "")


@pytest.mark.parametrize("sql", ["SELECT nope FROM runs", "COPY runs TO 'x'", "SELEC", ""])
def test_wrong_sql_is_a_usage_error(home: Path, sql: str) -> None:
    answer = opsuite("query", sql) if sql else opsuite("query", stdin="")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: ")
    assert "views: runs, ranks" in answer.stderr
    assert "Traceback" not in answer.stderr
