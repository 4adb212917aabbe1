"""The script for a GPU, in Triton's interpreter: the same way, with small sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs the engine extra, on Linux")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_session.py"


def test_every_part_of_it_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path / "out"), "--dry-run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, timeout=120, env=environment)
    [told] = [json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()]
    assert told["correctness"]["cases"] == 24
    assert told["elastic_correctness"]["cases"] == 4
    assert all(row["own_ms"] > 0 and row.get("apart", 0) < 1e-2 for row in told["elastic"])
    assert len(told["training"]) == 6
    assert all(row["tokens_per_s"] > 0 and row["mfu_causal"] > 0 for row in told["training"])
    *decodes, swap = told["serving"]
    assert all(row["apart"] < 1e-4 * row["scores"] for row in decodes)
    assert swap["same"]
    assert all(row["own_over_cublas"] > 0 for row in told["products"])
    assert all("emulated link at" in row["label"] for row in told["link"])
    assert (len(told["products"]), len(told["link"])) == (12, 12)
    assert told["lost_peer"]["told"] == "rank 1 did not come within 1 s"
