"""The whole promise, as a newcomer runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

for module in ("torch", "fastapi", "tokenizers"):
    pytest.importorskip(module, reason="needs the engine extra")


def test_demo_trains_diagnoses_and_serves(tmp_path: Path) -> None:
    """The fault's rank is named and no other; on a crowded host, the crowd may be named instead."""
    result = subprocess.run(
        [sys.executable, "-P", "-m", "opsuite.cli.main", "demo", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "OPSUITE_HOME": str(tmp_path)},
        timeout=300,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    outcome = json.loads(result.stdout)
    findings = outcome["diagnosis"]["findings"]
    named = {rank for finding in findings for rank in finding["ranks"]}
    crowded = any(finding["kind"] == "host_contention" for finding in findings)
    if outcome["fault_injected"]:
        assert named == {1} or (crowded and not named), result.stderr
    else:
        assert "fault skipped" in result.stderr
    assert len(outcome["requests"]) == 8
    assert all(1 <= request["output_tokens"] <= 48 for request in outcome["requests"])
    for completion, request in zip(outcome["completions"], outcome["requests"], strict=True):
        assert completion["text"]
        assert completion["ttft_s"] >= request["ttft_s"]  # the client sees the wire as well
