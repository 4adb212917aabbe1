"""Starting: what ``opsuite --help`` may import, and how errors end."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# Everything outside the standard library that the command line loads before it knows which
# command runs. A heavy import (pydantic, numpy, duckdb, rich, torch) belongs inside a command.
ALLOWED = {
    "annotated_doc",
    "click",
    "collectors",
    "opsuite",
    "shellingham",
    "typer",
    "typing_extensions",
}
PROBE = """
import json, sys
before = set(sys.modules)
sys.argv = ["opsuite", "--help"]
from opsuite.cli.main import main
try:
    main()
except SystemExit:
    pass
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(tops - set(sys.stdlib_module_names) - {"__mp_main__"})), file=sys.stderr)
"""


def opsuite(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "opsuite.cli.main", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


def test_help_imports_nothing_heavy() -> None:
    probe = subprocess.run(
        [sys.executable, "-P", "-c", PROBE], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(probe.stderr))
    assert "opsuite" in loaded
    assert loaded <= ALLOWED
    assert "diagnose" in probe.stdout


def test_every_command_helps() -> None:
    commands = (
        "launch",
        "serve",
        "collect",
        "diagnose",
        "query",
        "runs",
        "demo",
        "doctor",
        "bench",
    )
    for command in commands:
        result = opsuite(command, "--help")
        assert result.returncode == 0
        assert result.stdout.startswith("Usage: ")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["no-such-command"], 2),
        (["bench", "no-such-bench"], 2),
        (["diagnose", "no-such-run"], 3),
    ],
)
def test_exit_codes(arguments: list[str], code: int, tmp_path: os.PathLike[str]) -> None:
    result = opsuite(*arguments, OPSUITE_HOME=str(tmp_path))
    assert result.returncode == code
    assert "Traceback" not in result.stderr


def test_debug_shows_where_an_error_came_from(tmp_path: os.PathLike[str]) -> None:
    quiet = opsuite("diagnose", "nothing", OPSUITE_HOME=str(tmp_path))
    loud = opsuite("--debug", "diagnose", "nothing", OPSUITE_HOME=str(tmp_path))
    assert quiet.stderr.startswith("error: ")
    assert "Traceback" in loud.stderr


def test_bad_environment_is_said(tmp_path: os.PathLike[str]) -> None:
    result = opsuite("diagnose", OPSUITE_HOME=str(tmp_path), OPSUITE_DEBUG="perhaps")
    assert result.returncode == 2
    assert "OPSUITE_DEBUG" in result.stderr
