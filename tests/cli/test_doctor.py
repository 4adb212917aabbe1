"""``opsuite doctor`` on this machine, and on one that is worse off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from playbooks.checks.capability import Status, probe_machine

if TYPE_CHECKING:
    from pathlib import Path


def doctor(**environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    result = subprocess.run(
        [sys.executable, "-P", "-m", "opsuite.cli.main", "doctor", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )
    found = json.loads(result.stdout)["capabilities"]
    return result.returncode, {capability["name"]: capability for capability in found}


def test_every_lack_says_what_follows(tmp_path: Path) -> None:
    code, found = doctor(OPSUITE_HOME=str(tmp_path / "home"))
    assert code == 0
    assert {"python", "cores", "gpu", "stacks", "storage", "engine"} <= found.keys()
    for capability in found.values():
        assert capability["detail"]
        assert bool(capability["consequence"]) == (capability["status"] != "ok")


def test_home_that_is_a_file_is_broken(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_text("")
    code, found = doctor(OPSUITE_HOME=str(home))
    assert code == 1
    assert found["storage"]["status"] == "broken"
    assert "OPSUITE_HOME" in found["storage"]["consequence"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no pinning on this system")
def test_one_core_is_told(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        found = {capability.name: capability for capability in probe_machine(tmp_path)}
    finally:
        os.sched_setaffinity(0, before)
    assert found["cores"].status is Status.LIMITED


def test_unreadable_stacks_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A py-spy that is refused, as where ptrace is not permitted."""
    refused = tmp_path / "py-spy"
    refused.write_text("#!/bin/sh\necho 'Permission Denied' >&2\nexit 1\n")
    refused.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda *_args, **_kwargs: str(refused))
    found = {capability.name: capability for capability in probe_machine(tmp_path)}
    assert found["stacks"].status is Status.MISSING
    assert "ptrace" in found["stacks"].consequence
