"""SwiGLU's product (Shazeer 2020): ``silu(gate) * up``, nothing kept between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 1024


@triton.jit
def gate_product(gate, up, out, count, BLOCK: tl.constexpr):
    """``out = silu(gate) * up``, element by element."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (g * tl.sigmoid(g) * u).to(out.dtype.element_ty), inside)


@triton.jit
def gate_product_backward(gate, up, of_out, of_gate, of_up, count, BLOCK: tl.constexpr):
    """Both gradients, from both factors made anew."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    given = tl.load(of_out + at, mask=inside, other=0.0).to(tl.float32)
    s = tl.sigmoid(g)
    slope = s * (1 + g * (1 - s))
    tl.store(of_gate + at, (given * u * slope).to(of_gate.dtype.element_ty), inside)
    tl.store(of_up + at, (given * g * s).to(of_up.dtype.element_ty), inside)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:  # noqa: ANN401
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        count = out.numel()
        if count:
            gate_product[(triton.cdiv(count, _BLOCK),)](gate, up, out, count, BLOCK=_BLOCK)
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        gate, up = ctx.saved_tensors
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        count = gate.numel()
        if count:
            gate_product_backward[(triton.cdiv(count, _BLOCK),)](
                gate, up, of_out.contiguous(), of_gate, of_up, count, BLOCK=_BLOCK
            )
        return of_gate, of_up


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, of one shape."""
    return cast("Tensor", _Gated.apply(gate, up))
