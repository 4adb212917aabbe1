"""A job whose hosts Slurm starts, as far as its variables go: two launches find each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs the engine extra")

from typing import TYPE_CHECKING

from collectors.configuration import render_toml, resolve
from engine.training.config import RunConfig
from opsuite.drilling.small_job import SMALL_JOB

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 12


def start(home: Path, config: Path, index: int) -> subprocess.Popen[str]:
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(index),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURMD_NODENAME": f"node{index}",
        "OPSUITE_HOME": str(home),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "opsuite.cli.main", "launch", str(config)],
        env={**os.environ, **slurm, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_first_host_launches_the_job_and_the_other_joins(tmp_path: Path) -> None:
    sections = {
        **SMALL_JOB,
        "name": "joined",
        "train": {"steps": STEPS, "batch_size": 8},
        "parallel": {"tp": 1, "dp": 2, "device": "cpu"},
        "checkpoint": {"every": 0},
    }
    resolved = resolve(RunConfig, [("the test", sections)])
    config = tmp_path / "job.toml"
    config.write_text(render_toml(resolved.value, resolved.provenance))
    hosts = [start(tmp_path / "home", config, index) for index in (1, 0)]
    try:
        said = [host.communicate(timeout=120)[1] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], said
    assert "node1 joins run joined-slurm-7" in said[0]
    assert f"finished {STEPS} steps" in said[1]
    run = tmp_path / "home" / "runs" / "joined-slurm-7"
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    state = json.loads((run / "driver" / "generation-000001.json").read_text())
    assert [place["host"] for place in state["course"]["places"]] == ["node0", "node1"]
