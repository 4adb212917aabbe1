"""Rotary positions (RoFormer, arXiv 2104.09864; halves paired as in Llama)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor


@triton.jit
def turn(
    x, out, cos, sin, stride_b, stride_h, stride_s, out_b, out_h, out_s, heads, length, half,
    SIGN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One head of one token: its pairs (i, i + half), by the angles of its position."""
    number = tl.program_id(0).to(tl.int64)
    position = number % length
    head = number // length % heads
    sequence = number // length // heads
    columns = tl.arange(0, BLOCK)
    inside = columns < half
    place = x + sequence * stride_b + head * stride_h + position * stride_s + columns
    first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(place + half, mask=inside, other=0.0).to(tl.float32)
    angle = position * 2 * half + columns
    c = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32) * SIGN
    target = out + sequence * out_b + head * out_h + position * out_s + columns
    tl.store(target, (first * c - second * s).to(out.dtype.element_ty), inside)
    tl.store(target + half, (second * c + first * s).to(out.dtype.element_ty), inside)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        cos, sin = ctx.saved_tensors
        return _turned(of_out, cos, sin, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    if x.stride(-1) != 1:
        x = x.contiguous()
    out = torch.empty_like(x)
    sequences, heads, length, width = x.shape
    count = sequences * heads * length
    if count:
        turn[(count,)](
            x, out, cos, sin, *x.stride()[:3], *out.stride()[:3], heads, length, width // 2,
            SIGN=sign, BLOCK=triton.next_power_of_2(width // 2),
        )  # fmt: skip
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The pairs (i, i + Dh/2) of ``x`` [B, H, S, Dh], by the angles of tables [S, Dh]."""
    return cast("Tensor", _Rotate.apply(x, cos.contiguous(), sin.contiguous()))
