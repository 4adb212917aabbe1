"""Root-mean-square normalisation (Zhang & Sennrich 2019): one read and one write a direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import triton
import triton.language as tl

from engine.kernels.warps import warps_for

if TYPE_CHECKING:
    from torch import Tensor

_PROGRAMS = 256  # of backward: each adds up its rows' part of the weight's gradient


@triton.jit
def normalize(x, weight, out, scales, width, eps, BLOCK: tl.constexpr):
    """One row: ``out = x * scale * weight``, and its scale, which backward needs."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    value = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, axis=0) / width + eps)
    tl.store(scales + row, scale)
    gain = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + columns, (value * scale * gain).to(out.dtype.element_ty), inside)


@triton.jit
def normalize_backward(
    x, weight, scales, of_out, of_x, of_weight, rows, width, BLOCK: tl.constexpr
):
    """Every so many rows: their gradients, and what they add to the weight's."""
    program = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    gain = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for number in range(program, rows, tl.num_programs(0)):
        row = tl.cast(number, tl.int64)
        scale = tl.load(scales + row)
        value = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32) * scale
        given = tl.load(of_out + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        total += given * value
        along = given * gain
        mean = tl.sum(along * value, axis=0) / width
        result = (along - value * mean) * scale
        tl.store(of_x + row * width + columns, result.to(of_x.dtype.element_ty), inside)
    tl.store(of_weight + tl.cast(program, tl.int64) * width + columns, total, inside)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # noqa: ANN401
        x = x.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        out = torch.empty_like(x)
        scales = torch.empty(rows, dtype=torch.float32, device=x.device)
        if rows:
            block = triton.next_power_of_2(width)
            normalize[(rows,)](
                x, weight, out, scales, width, eps, BLOCK=block, num_warps=warps_for(block)
            )
        ctx.save_for_backward(x, weight, scales)
        return out

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        x, weight, scales = ctx.saved_tensors
        of_out = of_out.contiguous()
        of_x = torch.empty_like(x)
        rows, width = scales.numel(), x.shape[-1]
        programs = min(_PROGRAMS, max(1, rows))
        of_weight = torch.zeros(programs, width, dtype=torch.float32, device=x.device)
        if rows:
            block = triton.next_power_of_2(width)
            normalize_backward[(programs,)](
                x, weight, scales, of_out, of_x, of_weight, rows, width, BLOCK=block,
                num_warps=warps_for(block),
            )  # fmt: skip
        return of_x, of_weight.sum(0).to(weight.dtype), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x`` [..., D] by the root of the mean of its squares, times ``weight`` [D]."""
    return cast("Tensor", _RmsNorm.apply(x, weight, eps))
