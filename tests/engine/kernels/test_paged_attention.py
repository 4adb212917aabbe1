"""Paged attention in Triton's interpreter against float64, and what the compiler makes of it. No
GPU has run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="needs the engine extra, on Linux")

PROGRAM = """
import json, torch
from engine.kernels.paged_attention import paged_attention, reference

torch.manual_seed(1)

def tables(lengths, block, blocks):
    order = torch.randperm(blocks - 1).add_(1).tolist()  # block 0 is nobody's
    rows = [[order.pop() for _ in range(-(-n // block))] for n in lengths]
    most = max(map(len, rows))
    return torch.tensor([row + [0] * (most - len(row)) for row in rows], dtype=torch.int32)

for dtype in (torch.float32, torch.float16):
    for heads, shared, width, block, window, lengths in (
        (4, 2, 16, 16, 0, [1, 17, 64, 70]),
        (8, 8, 32, 16, 9, [3, 9, 10, 80]),
        (6, 1, 24, 4, 65, [64, 65, 130]),
    ):
        blocks = 2 + sum(-(-n // block) for n in lengths)
        own = tables(lengths, block, blocks)
        q = torch.randn(len(lengths), heads, width).to(dtype)
        keys, values = torch.full((2, shared, blocks * block, width), float("nan"), dtype=dtype)
        for row, length in zip(own.tolist(), lengths):
            for token in range(max(0, length - window) if window else 0, length):
                at = row[token // block] * block + token % block
                keys[:, at], values[:, at] = torch.randn(2, shared, width).to(dtype)
        ends = torch.tensor(lengths, dtype=torch.int32)
        options = {"block_tokens": block, "window": window}
        out = paged_attention(q, keys, values, own, ends, **options)
        exact = reference(q.double(), keys.double(), values.double(), own, ends, **options)
        print(json.dumps({"dtype": str(dtype), "far": (out.double() - exact).abs().max().item()}))
"""


def test_the_kernel_is_its_reference() -> None:
    """Groups, windows, odd widths; whatever lies beside a sequence's own tokens is NaN."""
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert len(lines) == 2 * 3
    for line in lines:
        assert line["far"] < (1e-5 if "32" in line["dtype"] else 4e-3), line


SLOW = pytest.mark.slow


@pytest.mark.parametrize("arch", [pytest.param(80, marks=SLOW), 90, pytest.param(100, marks=SLOW)])
def test_the_compiler_keeps_it_in_registers(arch: int) -> None:
    from engine.kernels.paged_ahead_of_time import compile_paged

    compiled = list(compile_paged(arch))
    assert len(compiled) == 2 * 2
    for each in compiled:
        assert not each.spills, each
