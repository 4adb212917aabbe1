"""Attention of one new token of each sequence to keys and values that lie in blocks (vLLM's paged
attention, arXiv 2309.06180, with the online softmax of FlashAttention, arXiv 2205.14135)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

TILES = {2: 64, 4: 16}  # tokens at a time, by a number's bytes: more of float32 spill registers
_FEWEST_ROWS = 16  # of a product on tensor cores
WARPS = 4
STAGES = {2: 3, 4: 2}  # of the pipeline that loads keys and values; 3 of float32 spill on sm_100


@triton.jit
def attend_single(
    q, keys, values, tables, lengths, out, scale, window, group, head_stride, table_stride,
    WIDTH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
):  # fmt: skip
    """One sequence's query heads that share a key head: ROWS of them, of which ``group`` are."""
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    row = tl.arange(0, ROWS)
    column = tl.arange(0, WIDE)
    inside = column < WIDTH
    first = (sequence * tl.num_programs(1) + head) * group
    places = (first + row[:, None]) * WIDTH + column[None, :]
    ours = (row[:, None] < group) & inside[None, :]
    queries = tl.load(q + places, mask=ours, other=0.0)
    length = tl.load(lengths + sequence)
    seen = tl.where(window > 0, tl.maximum(length - window, 0), 0)
    highest = tl.full((ROWS,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    sums = tl.zeros((ROWS, WIDE), dtype=tl.float32)
    for start in range(seen // TOKENS * TOKENS, length, TOKENS):
        token = start + tl.arange(0, TOKENS)
        known = (token >= seen) & (token < length)
        block = tl.load(tables + sequence * table_stride + token // BLOCK, mask=known, other=0)
        at = head * head_stride + (block.to(tl.int64) * BLOCK + token % BLOCK) * WIDTH
        tile = at[:, None] + column[None, :]
        whole = known[:, None] & inside[None, :]
        key = tl.load(keys + tile, mask=whole, other=0.0)
        scores = tl.dot(queries, tl.trans(key), input_precision="ieee") * scale
        scores = tl.where(known[None, :], scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        weights = tl.exp2(scores - higher[:, None])
        shrunk = tl.exp2(highest - higher)
        value = tl.load(values + tile, mask=whole, other=0.0)
        total = total * shrunk + tl.sum(weights, axis=1)
        product = tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        sums = sums * shrunk[:, None] + product
        highest = higher
    tl.store(out + places, (sums / total[:, None]).to(out.dtype.element_ty), mask=ours)


def paged_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    *,
    block_tokens: int,
    window: int = 0,
) -> Tensor:
    """One new token of each of B sequences.

    Args:
        q: [B, Hq, Dh].
        keys, values: of N blocks of T tokens, [Hkv, N T, Dh], a head's tokens side by side.
        tables: blocks of each sequence in the order of tokens, [B, most] (int32); what is behind
            its own is never read.
        lengths: tokens of each, the new one included: at least 1, [B] (int32).
        window: tokens that it looks back, itself included; 0: all.

    Returns:
        [B, Hq, Dh].
    """
    q = q.contiguous()
    sequences, heads, width = q.shape
    group = heads // keys.shape[0]
    out = torch.empty_like(q)
    attend_single[(sequences, keys.shape[0])](
        q, keys, values, tables, lengths, out, math.log2(math.e) / math.sqrt(width), window, group,
        keys.stride(0), tables.stride(0), WIDTH=width, WIDE=max(16, triton.next_power_of_2(width)),
        ROWS=max(_FEWEST_ROWS, triton.next_power_of_2(group)), BLOCK=block_tokens,
        TOKENS=TILES[q.element_size()], num_warps=WARPS, num_stages=STAGES[q.element_size()],
    )  # fmt: skip
    return out


def reference(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    *,
    block_tokens: int,
    window: int = 0,
) -> Tensor:
    """The same in plain torch, sequence by sequence."""
    group = q.shape[1] // keys.shape[0]
    out = torch.empty_like(q)
    for row, (own, blocks, length) in enumerate(zip(q, tables, lengths.tolist(), strict=True)):
        token = torch.arange(max(0, length - window) if window else 0, length, device=q.device)
        at = blocks[token // block_tokens].long() * block_tokens + token % block_tokens
        k, v = (each[:, at].repeat_interleave(group, dim=0) for each in (keys, values))
        scores = torch.einsum("hd,htd->ht", own, k) / math.sqrt(q.shape[-1])
        out[row] = torch.einsum("ht,htd->hd", scores.softmax(dim=-1), v)
    return out
