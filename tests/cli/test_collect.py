"""``opsuite collect``: what people type, and what launch does by itself."""

from __future__ import annotations

import json
import plistlib
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from collectors.clock import process_lives
from collectors.daemon.endpoint import Note
from collectors.daemon.unit import describe_unit, install_unit
from collectors.errors import UsageError
from collectors.settings import Settings
from opsuite.collecting import start_collecting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def opsuite(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "opsuite.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home whose daemon is stopped after the test."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield home
    opsuite("collect", "stop")


def test_from_the_start_to_the_end(home: Path) -> None:
    nobody = opsuite("collect", "status")
    assert nobody.returncode == 3
    assert "opsuite collect" in nobody.stderr
    assert opsuite("collect").returncode == 0
    note = Note.read(home)
    assert note is not None
    again = opsuite("collect")
    assert (again.returncode, again.stderr) == (0, f"already running (pid {note.pid})\n")
    status = json.loads(opsuite("collect", "status", "--json").stdout)
    assert (status["pid"], status["home"], status["warnings"]) == (note.pid, str(home), [])
    told = opsuite("collect", "status", "--socket", note.socket).stdout
    assert "not sealed yet" in told
    assert "runs              none live\n" in told
    stopped = opsuite("collect", "stop")
    assert (stopped.returncode, stopped.stderr) == (0, f"stopped (pid {note.pid})\n")
    assert not process_lives(note.pid, since_ns=time.time_ns())
    assert "no collector was running" in opsuite("collect", "stop").stderr
    logs = opsuite("collect", "logs").stdout
    assert "collecting into" in logs
    assert "all is sealed" in logs


def test_in_the_foreground_until_interrupted(home: Path) -> None:
    command = [sys.executable, "-P", "-m", "opsuite.cli.main", "collect", "--foreground"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "(pid" not in (line := process.stderr.readline()):
            assert line, "it ended"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 0
    assert "all is sealed" in rest


def test_launch_and_serve_start_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_collecting(Settings(home=home, collect=False))
    assert Note.read(home) is None
    start_collecting(Settings(home=home))
    note = Note.read(home)
    assert note is not None
    assert note.lives
    assert capsys.readouterr().err == ""


def test_a_collector_that_cannot_start_stops_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    start_collecting(Settings(home=tmp_path / "file" / "home"))
    assert capsys.readouterr().err.startswith("warning: nobody collects in the background: ")


def test_an_unknown_group_is_a_usage_error(home: Path) -> None:
    result = opsuite("collect", "--group", "no-such-group")
    assert result.returncode == 2
    assert "no-such-group" in result.stderr
    assert Note.read(home) is None


def test_units_run_this_command_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home = tmp_path / "a home of 100% $dollars"
    unit = describe_unit(home, ["/bin/python", "-m", "x"], platform="linux")
    [line] = [line for line in unit.text.splitlines() if line.startswith("ExecStart=")]
    escaped = str(home).replace("%", "%%").replace("$", "$$")
    assert line == f'ExecStart="/bin/python" "-m" "x" "--home" "{escaped}" "--idle-s" "0"'
    assert "systemctl --user enable" in unit.next_step
    agent = describe_unit(home, ["/bin/python"], platform="darwin")
    words = plistlib.loads(agent.text.encode())["ProgramArguments"]
    assert words == ["/bin/python", "--home", str(home), "--idle-s", "0"]
    install_unit(agent, platform="darwin")
    assert agent.path.read_text() == agent.text


def test_without_systemd_install_says_what_to_do_instead(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    printed = opsuite("collect", "install", "--print")
    assert printed.returncode == 0
    assert "collect" in printed.stdout
    monkeypatch.setattr("collectors.daemon.unit._SYSTEMD", tmp_path / "nothing")
    with pytest.raises(UsageError, match="no systemd") as error:
        install_unit(describe_unit(home, ["x"], platform="linux"), platform="linux")
    assert "--idle-s 0" in error.value.remedy
    assert not list(tmp_path.glob(".config/systemd/user/*"))
