"""The root of a collective is read from the variables of the function that waits in it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from collectors.samplers.call_roots import roots_of
from collectors.samplers.stacks import read_stacks

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
import time

def broadcast(tensor, src, group_src):
    print("ready", flush=True)
    time.sleep(1e6)

def barrier(src, group_src):
    print("ready", flush=True)
    time.sleep(1e6)
"""


@pytest.mark.parametrize(
    ("call", "told"),
    [("broadcast(7, 5, 1)", "src 1"), ("broadcast(7, 5, None)", "src 5"), ("barrier(5, 1)", "")],
)
def test_the_root_of_a_process_that_waits(call: str, told: str, tmp_path: Path) -> None:
    package = tmp_path / "torch" / "distributed"
    package.mkdir(parents=True)
    for each in (package, package.parent):
        (each / "__init__.py").touch()
    (package / "distributed_c10d.py").write_text(SOURCE)
    code = f"from torch.distributed.distributed_c10d import *; {call}"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            [seen] = read_stacks([process.pid])
            if seen.error:
                pytest.skip(seen.error)
            roots = roots_of([seen], within_s=10)
        finally:
            process.kill()
    assert roots == ({process.pid: told} if told else {})
