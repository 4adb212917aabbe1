"""``opsuite check``: baselines, exit codes, and that it needs no PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROBE = """
import pkgutil, sys, importlib
import playbooks.checks
for module in pkgutil.iter_modules(playbooks.checks.__path__, "playbooks.checks."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
sys.exit("torch" in sys.modules)
"""


def check(*arguments: str) -> tuple[int, str, str]:
    result = subprocess.run(
        [sys.executable, "-P", "-m", "opsuite.cli.main", "check", *arguments],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=60,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


def test_no_check_loads_torch_when_it_is_imported() -> None:
    result = subprocess.run([sys.executable, "-P", "-c", PROBE], timeout=60, check=False)
    assert result.returncode == 0


def test_a_stored_baseline_is_what_the_next_check_is_judged_by(home: Path) -> None:
    code, output, errors = check("loopback", "--budget", "300ms", "--update-baseline", "--json")
    assert code == 0
    (path,) = (home / "baselines").glob("*.json")
    assert str(path) in errors
    assert json.loads(output)["results"][0]["baseline"] is not None

    stored: dict[str, Any] = json.loads(path.read_text())
    stored["figures"]["loopback/tcp"]["median"] *= 1000
    path.write_text(json.dumps(stored))
    code, output, _ = check("loopback", "--budget", "300ms")
    assert code == 1
    assert "slow" in output


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nonsense"], 2, "name some of memory"),
        (["--budget", "soon"], 2, "--budget"),
        (["memory", "--peer", "127.0.0.1:1"], 2, "pair test"),
        (["--listen", "127.0.0.1:1", "--device", "tpu"], 2, "cpu or cuda"),
        (["--peer", "127.0.0.1:1", "--limit", "200ms"], 3, "--listen"),
        (["--listen", "127.0.0.1:0", "--limit", "200ms"], 4, "nobody came"),
    ],
)
@pytest.mark.usefixtures("home")
def test_exit_codes(arguments: list[str], code: int, told: str) -> None:
    given, output, errors = check(*arguments)
    assert (given, output) == (code, "")
    assert told in errors
