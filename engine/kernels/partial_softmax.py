"""Attention to a part of the keys, and how such results become one by their log-sum-exps (the
online softmax of FlashAttention, arXiv 2205.14135, across processes)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

LOG2_E = tl.constexpr(math.log2(math.e))
PARTS = 16  # at a time
MERGE_WARPS = 4


@dataclass(frozen=True, slots=True)
class Partial:
    """What N queries of Hq heads, Dh wide, have of the keys that they have met.

    Attributes:
        out: the values of these keys by their softmax, [N, Hq, Dh] float32; 0 where there was none.
        lse: logarithm of the sum of exp(scores), [N, Hq] float32; -inf where there was none.
    """

    out: Tensor
    lse: Tensor

    @classmethod
    def nothing(cls, q: Tensor) -> Partial:
        """Of queries [N, Hq, Dh] that have met no key; float64 for such queries."""
        wide = torch.promote_types(q.dtype, torch.float32)
        return cls(
            torch.zeros_like(q, dtype=wide, memory_format=torch.contiguous_format),
            torch.full(q.shape[:2], -math.inf, dtype=wide, device=q.device),
        )


@triton.jit
def absorb(scores, value, highest, total, sums):
    """Some more keys' scores, to base 2, and values, into the running softmax of some rows.

    A row that has seen no key keeps ``highest`` at -inf, and its ``total`` and ``sums`` at 0.
    """
    higher = tl.maximum(highest, tl.max(scores, axis=1))
    base = tl.where(higher == -float("inf"), 0.0, higher)
    weights = tl.exp2(scores - base[:, None])
    shrunk = tl.exp2(highest - base)
    total = total * shrunk + tl.sum(weights, axis=1)
    sums = sums * shrunk[:, None]
    sums = tl.dot(weights.to(value.dtype), value, sums, input_precision="ieee")
    return higher, total, sums


@triton.jit
def normalized(highest, total, sums):
    """A running softmax as a :class:`Partial` says it."""
    some = total > 0
    divisor = tl.where(some, total, 1.0)
    lse = tl.where(some, (highest + tl.log2(divisor)) / LOG2_E, -float("inf"))
    return sums / divisor[:, None], lse


@triton.jit
def merge_parts(
    outs, lses, order, bounds, out, lse, heads,
    WIDTH: tl.constexpr, WIDE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One head of one query."""
    query = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    part = tl.arange(0, PARTS)
    column = tl.arange(0, WIDE)
    inside = column < WIDTH
    begin = tl.load(bounds + query)
    end = tl.load(bounds + query + 1)
    highest = tl.full((PARTS,), -float("inf"), dtype=tl.float32)
    for at in range(begin, end, PARTS):
        known = at + part < end
        row = tl.load(order + at + part, mask=known, other=0).to(tl.int64) * heads + head
        highest = tl.maximum(highest, tl.load(lses + row, mask=known, other=-float("inf")))
    peak = tl.max(highest, axis=0)
    peak = tl.where(peak == -float("inf"), 0.0, peak)
    totals = tl.zeros((PARTS,), dtype=tl.float32)
    sums = tl.zeros((WIDE,), dtype=tl.float32)
    for at in range(begin, end, PARTS):
        known = at + part < end
        row = tl.load(order + at + part, mask=known, other=0).to(tl.int64) * heads + head
        weight = tl.exp(tl.load(lses + row, mask=known, other=-float("inf")) - peak)
        whole = known[:, None] & inside[None, :]
        tile = tl.load(outs + row[:, None] * WIDTH + column[None, :], mask=whole, other=0.0)
        totals += weight
        sums += tl.sum(weight[:, None] * tile, axis=0)
    total = tl.sum(totals, axis=0)
    divisor = tl.where(total > 0, total, 1.0)
    own = query * heads + head
    tl.store(out + own * WIDTH + column, sums / divisor, mask=inside)
    tl.store(lse + own, tl.where(total > 0, peak + tl.log(divisor), -float("inf")))


def merge(parts: Partial, order: Tensor, bounds: Tensor) -> Partial:
    """Of several partial results of each of n queries, over keys that no two of them share, one.

    Args:
        parts: P results, in any order, contiguous.
        order: which of them belong to the first query, the second, ..., [at least P] (int32).
        bounds: where each query's begin in ``order``, and where the last one's end, [n + 1]
            (int32); a query may have none.
    """
    _, heads, width = parts.out.shape
    queries = len(bounds) - 1
    out = parts.out.new_empty(queries, heads, width)
    lse = parts.lse.new_empty(queries, heads)
    if queries:
        merge_parts[(queries, heads)](
            parts.out, parts.lse, order, bounds, out, lse, heads, WIDTH=width,
            WIDE=triton.next_power_of_2(width), PARTS=PARTS, num_warps=MERGE_WARPS,
        )  # fmt: skip
    return Partial(out, lse)


def folded(one: Partial, other: Partial) -> Partial:
    """Two results of the same queries in one, in plain torch: what :func:`merge` is checked by."""
    lse = torch.logaddexp(one.lse, other.lse)
    weights = ((each.lse - lse).exp().nan_to_num(0.0) for each in (one, other))
    out = sum(w[..., None] * each.out for w, each in zip(weights, (one, other), strict=True))
    return Partial(torch.as_tensor(out), lse)
