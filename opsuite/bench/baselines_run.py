"""A run for `opsuite bench baselines`: ``python -m`` with a configuration and its pipes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engine.training.config import RunConfig
from engine.training.launcher import launch
from opsuite.bench.home import bench_home

PIPES = "OPSUITE_BENCH_PIPES"
"""The variable that tells the rank where its pipes are."""


def main() -> None:
    """Train as any run does, but for the ranks, which step in turn."""
    config = RunConfig.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.environ[PIPES] = sys.argv[2]
    launch(
        config,
        home=bench_home(),
        command=["opsuite", "bench", "baselines"],
        narrate=lambda _: None,
        worker="opsuite.bench.baselines_rank",
    )


if __name__ == "__main__":
    main()
