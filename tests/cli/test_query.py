"""``opsuite query``: rows on stdout, the rest on stderr, exit codes for scripts."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
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


@pytest.mark.once
def test_every_format_to_a_file(run: RunDirectory, tmp_path: Path) -> None:
    """By the name's ending; what programs read back is what was stored, NaN and NULL too."""
    sql = "SELECT step, loss, grad_norm, 'a|b' AS text FROM steps WHERE step >= 3 ORDER BY step"
    for ending in ("jsonl", "csv", "md", "parquet", "json"):
        answer = opsuite("query", sql, "--output", str(tmp_path / f"rows.{ending}"))
        assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.0, None]
    assert (tmp_path / "rows.md").read_text().splitlines() == [
        "| step | loss | grad_norm | text |",
        "| --- | --- | --- | --- |",
        "| 3 | 1 | n/a | a\\|b |",
        "| 4 | nan | n/a | a\\|b |",
    ]
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.column_names == ["step", "loss", "grad_norm", "text"]
    assert math.isnan(table["loss"][1].as_py())
    assert table["grad_norm"].to_pylist() == [None, None]
    assert json.loads((tmp_path / "rows.json").read_text())[0]["step"] == 3


def test_parquet_on_stdout_is_for_programs(run: RunDirectory, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with path.open("wb") as file:
        command = [sys.executable, "-m", "opsuite.cli.main", "query", "--format", "parquet"]
        subprocess.run([*command, "SELECT step FROM steps"], stdout=file, check=True)
    assert sorted(pq.read_table(path)["step"].to_pylist()) == [0, 1, 2, 3, 4]
    answer = opsuite("query", "SELECT INTERVAL 1 MONTH AS i", "--output", str(path))
    assert answer.returncode == 2
    assert "cast it" in answer.stderr
    assert sorted(pq.read_table(path)["step"].to_pylist()) == [0, 1, 2, 3, 4]  # as it was


def test_sql_from_a_file(run: RunDirectory, tmp_path: Path) -> None:
    file = tmp_path / "question.sql"
    file.write_text("-- how far\nSELECT max(step) AS last FROM steps;\n", encoding="utf-8")
    assert opsuite("query", "-f", str(file), "--format", "jsonl").stdout == '{"last": 4}\n'
    both = opsuite("query", "SELECT 1", "--file", str(file))
    missing = opsuite("query", "--file", str(tmp_path / "nope.sql"))
    assert (both.returncode, missing.returncode) == (2, 2)
    assert "give one" in both.stderr
    assert "No such file" in missing.stderr


@pytest.mark.once
def test_values_of_every_type_are_printed(home: Path) -> None:
    sql = (
        "SELECT 1.50::DECIMAL(9,2) AS a, [1, NULL] AS b, {'x': 'y'} AS c, 'z'::BLOB AS d,"
        " DATE '2026-01-02' AS e, TIMESTAMP '2026-01-02 03:04:05' AS f,"
        " 170141183460469231731::HUGEINT AS g, INTERVAL 3 DAY AS h, 'ä' AS i, true AS j,"
        " TIME '10:00' AS k, 1e300 * 1e10 AS l"
    )
    [row] = json.loads(opsuite("query", sql, "--json").stdout)
    assert {name: row[name] for name in "abcdefgijk"} == {
        **{"a": 1.5, "b": [1, None], "c": {"x": "y"}, "d": "7a", "e": "2026-01-02"},
        **{"f": "2026-01-02T03:04:05", "g": 170141183460469231731, "i": "ä", "j": True},
        "k": "10:00:00",
    }
    assert row["l"] is None
    for form in ("table", "csv", "md", "jsonl"):
        answer = opsuite("query", sql, "--format", form)
        assert (answer.returncode, answer.stderr) == (0, "")
        assert "ä" in answer.stdout or "\\u00e4" in answer.stdout


def test_an_output_that_cannot_be_written(home: Path, tmp_path: Path) -> None:
    answer = opsuite("query", "SELECT 1", "--output", str(tmp_path / "nowhere" / "x.csv"))
    assert answer.returncode == 2
    assert str(tmp_path / "nowhere" / "x.csv") in answer.stderr
    assert "do:    make it" in answer.stderr
    answer = opsuite("query", "SELECT 1", "--output", str(tmp_path / "rows.xyz"))
    assert answer.returncode == 2
    assert ".table, .json, .jsonl, .csv, .parquet, .md, or add --format" in answer.stderr
    answer = opsuite("query", "SELECT 1", "-o", str(tmp_path / "rows.xyz"), "--format", "csv")
    assert (answer.returncode, (tmp_path / "rows.xyz").read_text()) == (0, "1\n1\n")


def test_parquet_is_not_for_a_terminal(home: Path) -> None:
    ours, terminal = os.openpty()
    command = [sys.executable, "-m", "opsuite.cli.main", "query", "SELECT 1", "--format", "parquet"]
    answer = subprocess.run(
        command, stdout=terminal, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(terminal)
    os.close(ours)
    assert answer.returncode == 2
    assert "not for a terminal" in answer.stderr


def test_an_empty_answer_is_told_to_people(run: RunDirectory) -> None:
    """Of a heat map also what it could show."""
    assert opsuite("query", "FROM steps WHERE step = 99").stderr == "no rows\n"
    answer = opsuite("query", "FROM steps WHERE step = 99", "--json")
    assert (answer.stdout, answer.stderr) == ("[]\n", "")
    answer = opsuite("query", "FROM heatmap('last', 'setp')")
    assert answer.stderr == "no rows; phases of that run: step\n"


def test_what_is_left_out_is_said(run: RunDirectory) -> None:
    answer = opsuite("query", "FROM steps", "--limit", "2", "--json")
    assert len(json.loads(answer.stdout)) == 2
    assert answer.stderr == "2 of 5 rows; --limit 0 prints all\n"
    answer = opsuite("query", "FROM range(3000)", "--limit", "0", "--format", "csv")
    assert (len(answer.stdout.splitlines()), answer.stderr) == (3001, "")


@pytest.mark.parametrize(
    ("sql", "advice"),
    [("SELECT nope FROM runs", "views: runs, ranks"), ("COPY runs TO 'x'", "one SELECT"), ("", "")],
)
def test_wrong_sql_is_a_usage_error(home: Path, sql: str, advice: str) -> None:
    answer = opsuite("query", sql) if sql else opsuite("query", stdin="")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: ")
    assert "do:    " in answer.stderr
    assert advice in answer.stderr
    assert "Traceback" not in answer.stderr
