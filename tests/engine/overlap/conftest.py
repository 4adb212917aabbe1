"""Ranks of a group as real processes, each running the same few lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    InRanks = Callable[..., list[list[dict[str, Any]]]]

PROGRAM = """
import json, os, random, signal, sys, time
import torch
import torch.distributed as dist
from collectors.recorder import NullRecorder
from engine.groups.group import CurrentStep
from engine.overlap.tensor_parallel import TensorParallelGroup

directory, size, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
torch.set_num_threads(1)
children = []
for rank in range(size):
    pid = os.fork()
    if not pid:
        break
    children.append(pid)
else:
    failed = [rank for rank, pid in enumerate(children) if os.waitpid(pid, 0)[1]]
    sys.exit(f"ranks {{failed}} failed" if failed and not options.get("may_fail") else 0)

def tell(**told):
    with open(f"{{directory}}/told-{{rank}}", "a") as file:
        file.write(json.dumps(told) + "\\n")

def open_group(**more):
    return TensorParallelGroup(
        ranks=range(size), global_rank=rank, process_group=dist.group.WORLD,
        recorder=NullRecorder(), current_step=CurrentStep(), **more,
    )

store = f"file://{{directory}}/store"
dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
torch.manual_seed(7)
{body}
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture
def in_ranks(tmp_path: Path) -> InRanks:
    """Run ``body`` in ``size`` processes; gives what each of them told, by rank."""
    pytest.importorskip("torch")
    if sys.platform != "linux":
        pytest.skip("memory in common needs Linux")

    def run(body: str, size: int = 2, **options: Any) -> list[list[dict[str, Any]]]:
        number = len(list(tmp_path.iterdir()))
        directory = tmp_path / str(number)
        directory.mkdir()
        script = directory / "ranks.py"
        script.write_text(PROGRAM.format(body=textwrap.dedent(body)))
        subprocess.run(
            [sys.executable, "-P", str(script), str(directory), str(size), json.dumps(options)],
            check=True,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
        return [
            [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
            for told in (directory / f"told-{rank}" for rank in range(size))
        ]

    return run
