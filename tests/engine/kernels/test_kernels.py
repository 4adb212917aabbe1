"""Fused operations in Triton's interpreter against float64, and what the compiler makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs the engine extra, on Linux")

PROGRAM = """
import json, torch
from engine.kernels.cross_entropy import cross_entropy_
from engine.kernels.rms_norm import rms_norm
from engine.kernels.rotary import rotate
from engine.kernels.swiglu import gated
from engine.models import operations as torch_s

torch.manual_seed(1)

def compare(name, ours, exact, *inputs):
    ours_in = [x.clone().requires_grad_() for x in inputs]
    exact_in = [x.double().requires_grad_() for x in inputs]
    out, expected = ours(*ours_in), exact(*exact_in)
    along = torch.randn(out.shape)
    out.backward(along.to(out.dtype))
    expected.backward(along.double())
    pairs = [(out, expected), *((a.grad, b.grad) for a, b in zip(ours_in, exact_in))]
    far = max(((a.double() - b).abs() / (1 + b.abs())).max().item() for a, b in pairs if a.numel())
    print(json.dumps({"name": name, "far": far, "dtype": str(out.dtype)}))

for dtype in (torch.float32, torch.bfloat16):
    for rows, width in ((5, 64), (300, 40), (1, 1000), (0, 16)):
        norm = lambda x, w: torch_s.rms_norm(x, w, 1e-5)
        x, w = torch.randn(rows, width).to(dtype), torch.rand(width).to(dtype)
        compare("rms_norm", lambda x, w: rms_norm(x, w, 1e-5), norm, x, w)
    for shape in ((2, 3, 7, 16), (1, 1, 1, 20)):
        cos, sin = torch.randn(2, shape[2], shape[3] // 2).repeat(1, 1, 2)
        turned = torch.randn(shape).transpose(1, 2).contiguous().transpose(1, 2)
        for x in (torch.randn(shape), turned):
            compare("rotate", lambda x: rotate(x, cos, sin),
                    lambda x: torch_s.rotate(x, cos.double(), sin.double()), x.to(dtype))
    for count in (1, 1500):
        compare("gated", gated, torch_s.gated, *torch.randn(2, count, 3).to(dtype))
for tokens, vocabulary in ((9, 300), (3, 20_000), (0, 8)):
    logits, targets = 4 * torch.randn(tokens, vocabulary), torch.randint(vocabulary, (tokens,))
    exact = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(exact, targets, reduction="none")
    expected.sum().backward()
    losses = cross_entropy_(logits, targets)
    pairs = ((losses, expected), (logits, exact.grad))
    far = max((a.double() - b).abs().max().item() for a, b in pairs) if tokens else 0.0
    print(json.dumps({"name": "cross_entropy_", "far": far, "dtype": str(logits.dtype)}))
"""


def test_kernels_are_their_references() -> None:
    """In values and gradients, for odd shapes, strides and no tokens at all."""
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    lines: list[dict[str, Any]] = [json.loads(line) for line in told.stdout.splitlines()]
    assert {line["name"] for line in lines} == {"rms_norm", "rotate", "gated", "cross_entropy_"}
    assert len(lines) == 2 * (4 + 4 + 2) + 3
    for line in lines:
        assert line["far"] < (5e-5 if "32" in line["dtype"] else 0.02), line


SLOW = pytest.mark.slow


@pytest.mark.parametrize("arch", [pytest.param(80, marks=SLOW), 90, pytest.param(100, marks=SLOW)])
def test_the_compiler_keeps_them_in_registers(arch: int) -> None:
    from engine.kernels.ahead_of_time import compile_all

    compiled = list(compile_all(arch))
    assert len(compiled) == 2 * 6
    for each in compiled:
        assert not each.spills, each
