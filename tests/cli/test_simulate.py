"""``opsuite simulate train``: what it prints, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

DRILL = ("--hosts", "2", "--gpus-per-host", "2", "--duration", "10m", "--every", "60s")


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "opsuite.cli.main", "simulate", "train", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    path = tmp_path / "drill.json"
    given = {
        "step_s": 0.2,
        "copy_s": 0.5,
        "checkpoint_every_s": 60,
        "checkpoint_block_s": 0.1,
        "start_s": [3, 4],
        "stop_s": 0.2,
        "standbys": 0,
        "replenish_s": None,
        "config": {"accused_most": 1000},
    }
    path.write_text(json.dumps(given))
    return path


def test_both_practices_side_by_side_as_json() -> None:
    result = simulate("--duration", "3d", "--seeds", "2", "--no-what-if", "--json")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found["job"]["gpus"] == 12_288
    assert "2407.21783" in found["failures"]["source"]
    theirs, ours = found["practices"]
    assert (theirs["name"], ours["name"]) == ("megascale", "ours")
    assert ours["effective"]["value"] > theirs["effective"]["value"]
    for practice in (theirs, ours):
        assert sum(practice["spent"].values()) == pytest.approx(1)
        assert practice["effective"]["value"] == practice["spent"]["productive"]
        assert practice["costs"]["start_s"]["source"].startswith("published: ByteRobust")


def test_a_drill_is_predicted_with_what_would_help(costs: Path) -> None:
    result = simulate(*DRILL, "--costs", str(costs), "--seeds", "2", "--json")
    assert result.returncode == 0, result.stderr
    (drill,) = json.loads(result.stdout)["practices"]
    assert drill["name"] == "drill"
    assert drill["failures"] == 9
    assert drill["causes"] == {"killed": 9}
    assert drill["given_up"] == 0
    assert 0.8 < drill["effective"]["value"] < 0.97
    changes = {(each["name"], each["how"]): each["gain"]["value"] for each in drill["what_if"]}
    assert changes["restart time", "halved"] > 0 > changes["restart time", "doubled"]


def test_tables_for_people_name_what_is_assumed(costs: Path) -> None:
    result = simulate(*DRILL, "--costs", str(costs), "--seeds", "2", "--no-what-if")
    assert result.returncode == 0, result.stderr
    assert "4 GPUs on 2 hosts for 10 minutes" in result.stdout
    assert "assumed of drill" in result.stdout
    assert "killed rank" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--gpus", "12"), "do not fill"),
        (("--gpus", "16", "--hosts", "3"), "are not 16 GPUs"),
        (("--duration", "long"), "--duration"),
        (("--every", "0s"), "--every"),
        (("--failures", "none.json"), "none.json"),
        (("--costs", "none.json"), "none.json"),
    ],
)
def test_what_cannot_be_simulated_is_a_usage_error(arguments: tuple[str, ...], says: str) -> None:
    result = simulate(*arguments)
    assert result.returncode == 2
    assert says in result.stderr
    assert "do:" in result.stderr
    assert result.stdout == ""
