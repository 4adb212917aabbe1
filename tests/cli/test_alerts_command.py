"""``opsuite alerts``: rules are checked on the real store, and what was told can be seen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from typer.testing import CliRunner

from collectors.alerts.notification import JOURNAL, append_journal
from collectors.run import RunDirectory
from opsuite.cli.main import app

if TYPE_CHECKING:
    from pathlib import Path


def opsuite(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["alerts", *arguments])


def rules(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "alerts.toml").write_text(text)


def test_check_asks_every_rule_once(home: Path) -> None:
    RunDirectory.create(home, name="x", kind="training", command=[], config={}, world_size=1)
    rules(
        home,
        """
        [[alert]]
        name = "running"
        sql = "SELECT run_id, status FROM runs WHERE status = 'running'"
        message = "{run_id} is {status}"
        [[alert]]
        name = "wrong"
        sql = "SELECT nothing FROM nowhere"
        [[alert]]
        name = "column"
        sql = "SELECT run_id FROM runs"
        key = ["rank"]
        """,
    )
    answer = opsuite("check", "--json")
    assert answer.exit_code == 1
    running, wrong, column = json.loads(answer.stdout)
    assert (running["rows"], running["error"]) == (1, None)
    assert running["messages"][0].endswith(" is running")
    assert "nowhere" in wrong["error"]
    assert "no column 'rank'" in column["error"]
    assert "running: 1 alert(s) now" in opsuite("check").stdout


def test_check_names_what_is_wrong_with_the_file(home: Path) -> None:
    rules(home, "[[alert]]\nname = 1\n")
    answer = opsuite("check")
    assert (answer.exit_code, "alert.name" in answer.stderr) == (2, True)
    assert opsuite("check", "/no/such/file").exit_code == 2


def test_a_test_alert_goes_through_the_channels(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rules(
        home,
        f"""
        [[alert]]
        name = "a"
        sql = "SELECT 1"
        notify = [{{command = ["tee", "{out}"]}}]
        [[alert]]
        name = "b"
        sql = "SELECT 1"
        notify = [{{command = ["false"]}}]
        """,
    )
    assert opsuite("test", "a").exit_code == 0
    assert json.loads(out.read_text())["message"] == "a test of this alert"
    assert opsuite("test", "b").exit_code == 1
    answer = opsuite("test", "c")
    assert (answer.exit_code, "a, b" in answer.stderr) == (2, True)


def test_what_was_told_is_listed(home: Path) -> None:
    assert "no alert was told yet" in opsuite("list").stderr
    home.mkdir()
    for number in range(3):
        entry = {"rule": "a", "severity": "info", "state": "firing", "at_s": number}
        append_journal(home / JOURNAL, entry | {"message": f"m{number}\x1b[2J", "bell": True})
    with (home / JOURNAL).open("a") as file:
        file.write('{"cut')
    lines = opsuite("list", "--limit", "2").stdout.splitlines()
    assert [line[21:] for line in lines] == ["info a firing: m1 [2J", "info a firing: m2 [2J"]
    assert len(opsuite("list", "--json").stdout.splitlines()) == 3
