"""Cross-entropy that turns logits into their own gradients: two reads and one write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from engine.kernels.warps import warps_for

if TYPE_CHECKING:
    from torch import Tensor

_MOST = 8192  # logits of a row at a time


@triton.jit
def losses_and_gradients(logits, targets, losses, vocabulary, BLOCK: tl.constexpr):
    """One token: its loss in one pass (Milakov & Gimelshein 2018), gradients in another."""
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * vocabulary
    target = tl.load(targets + row)
    peak = float("-inf")
    total = 0.0
    for first in range(0, vocabulary, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        value = tl.load(start + columns, mask=columns < vocabulary, other=float("-inf"))
        value = value.to(tl.float32)
        higher = tl.maximum(peak, tl.max(value, axis=0))
        total = total * tl.exp(peak - higher) + tl.sum(tl.exp(value - higher), axis=0)
        peak = higher
    logarithm = peak + tl.log(total)
    tl.store(losses + row, logarithm - tl.load(start + target).to(tl.float32))
    for first in range(0, vocabulary, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < vocabulary
        value = tl.load(start + columns, mask=inside, other=float("-inf")).to(tl.float32)
        gradient = tl.exp(value - logarithm) - tl.where(columns == target, 1.0, 0.0)
        tl.store(start + columns, gradient.to(logits.dtype.element_ty), inside)


def cross_entropy_(logits: Tensor, targets: Tensor) -> Tensor:
    """Losses [T] (float32) of ``targets`` [T] under ``logits`` [T, V], which become the gradients
    of the losses' sum."""
    assert logits.is_contiguous()
    count, vocabulary = logits.shape
    losses = torch.empty(count, dtype=torch.float32, device=logits.device)
    if count:
        block = min(_MOST, triton.next_power_of_2(vocabulary))
        losses_and_gradients[(count,)](
            logits, targets, losses, vocabulary, BLOCK=block, num_warps=warps_for(block)
        )
    return losses
