"""Attention of stripes of queries to stripes of keys and values that come by on a ring, one after
another (ring attention, arXiv 2310.01889; in stripes, arXiv 2311.09431)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from engine.kernels.partial_softmax import LOG2_E, Partial, absorb, folded, normalized
from engine.kernels.stripes import Tiling

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from engine.kernels.stripes import Meeting, Stripe

_NARROWEST = 16  # of a product on tensor cores
_ALL = 1 << 30  # tokens: farther than any text reaches


@dataclass(frozen=True, slots=True)
class Tile:
    """Of queries and keys.

    Attributes:
        warps: of a program.
        stages: of the pipeline that loads keys and values ahead.
    """

    rows: int
    tokens: int
    warps: int
    stages: int


def tile_of(itemsize: int, wide: int) -> Tile:
    """The largest that spills no registers on any architecture, for heads as wide as ``wide``."""
    if itemsize == 4:
        return Tile(max(16, min(64, 4096 // wide)), 16, 4, 2)
    return Tile(128, 64, 8, 3) if wide <= 128 else Tile(64, 64, 8, 2)


@triton.jit
def attend_stripe(
    q, keys, values, out, lse, tiles, stripes, scale, window, group,
    key_token, key_head, value_token, value_head,
    WIDTH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """One query head of one tile: ROWS queries, of which ``count`` are."""
    tile = tiles + tl.program_id(0) * 6
    heads = tl.num_programs(1)
    head = tl.program_id(1)
    first = tl.load(tile).to(tl.int64)
    count = tl.load(tile + 1)
    earliest = tl.load(tile + 2)
    apart = tl.load(tile + 3)
    latest = earliest + (count - 1) * apart
    row = tl.arange(0, ROWS)
    column = tl.arange(0, WIDE)
    inside = column < WIDTH
    own = (earliest + row * apart)[:, None]
    ours = (row < count)[:, None] & inside[None, :]
    sums_at = (first + row) * heads + head
    at = sums_at[:, None] * WIDTH + column[None, :]
    queries = tl.load(q + at, mask=ours, other=0.0)
    sums = tl.load(out + at, mask=ours, other=0.0)
    highest = tl.load(lse + sums_at, mask=row < count, other=-float("inf")) * LOG2_E
    total = tl.where(highest == -float("inf"), 0.0, 1.0)
    of_head = (head // group).to(tl.int64)
    for stripe in range(tl.load(tile + 4), tl.load(tile + 5)):
        begin = tl.load(stripes + stripe * 4).to(tl.int64)
        tokens = tl.load(stripes + stripe * 4 + 1)
        place = tl.load(stripes + stripe * 4 + 2)
        step = tl.load(stripes + stripe * 4 + 3)
        # Keys [low, high) are seen by any of the rows, and [low_all, high_all) by all of them.
        low = tl.maximum(earliest - window - place + step, 0) // step // TOKENS * TOKENS
        low_all = tl.maximum(latest - window - place + step, 0) // step
        high = tl.minimum(tl.maximum(latest - place + step, 0) // step, tokens)
        high_all = tl.minimum(tl.maximum(earliest - place + step, 0) // step, tokens)
        its_keys = keys + (begin * key_token + of_head * key_head)
        its_values = values + (begin * value_token + of_head * value_head)
        for start in range(low, high, TOKENS):
            token = start + tl.arange(0, TOKENS)
            known = (token < tokens)[:, None] & inside[None, :]
            far = token.to(tl.int64)[:, None]
            key = tl.load(its_keys + far * key_token + column[None, :], mask=known, other=0.0)
            scores = tl.dot(queries, tl.trans(key), input_precision="ieee") * scale
            if (start < low_all) | (start + TOKENS > high_all):
                its = (place + token * step)[None, :]
                seen = (its <= own) & (its > own - window) & (token < tokens)[None, :]
                scores = tl.where(seen, scores, -float("inf"))
            value = tl.load(its_values + far * value_token + column[None, :], mask=known, other=0.0)
            highest, total, sums = absorb(scores, value, highest, total, sums)
    sums, highest = normalized(highest, total, sums)
    tl.store(out + at, sums, mask=ours)
    tl.store(lse + sums_at, highest, mask=row < count)


def tiling(meetings: Iterable[Meeting], q: Tensor) -> Tiling:
    """How :func:`stripe_attention` goes through these, for queries as ``q``."""
    tile = tile_of(q.element_size(), _wide(q))
    return Tiling.of(meetings, rows=tile.rows, device=q.device)


def _wide(q: Tensor) -> int:
    return int(max(_NARROWEST, triton.next_power_of_2(q.shape[2])))


def stripe_attention(
    partial: Partial, q: Tensor, keys: Tensor, values: Tensor, tiles: Tiling, *, window: int = 0
) -> None:
    """Queries of several texts meet some of their keys: one launch, whatever their lengths.

    Args:
        partial: of N queries, and what these keys give is added there.
        q: [N, Hq, Dh].
        keys, values: [M, Hkv, Dh] of the type of ``q``, with any strides but 1 within a head: a
            pool of [Hkv, M, Dh] is given transposed.
        tiles: of :func:`tiling`. A query stands in one of them, and meets a key once.
        window: tokens that a query looks back, itself included; 0: all.
    """
    assert keys.stride(2) == values.stride(2) == 1, "a head's numbers lie side by side"
    assert partial.out.is_contiguous(), "it is written in place"
    if not len(tiles.tiles):
        return
    q = q.contiguous()
    _, heads, width = q.shape
    wide = _wide(q)
    tile = tile_of(q.element_size(), wide)
    attend_stripe[(len(tiles.tiles), heads)](
        q, keys, values, partial.out, partial.lse, tiles.tiles, tiles.keys,
        math.log2(math.e) / math.sqrt(width), window or _ALL, heads // keys.shape[1],
        keys.stride(0), keys.stride(1), values.stride(0), values.stride(1),
        WIDTH=width, WIDE=wide, ROWS=tiles.rows,
        TOKENS=tile.tokens, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def reference(
    partial: Partial,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    meetings: Iterable[Meeting],
    *,
    window: int = 0,
) -> None:
    """The same in plain torch, stripe by stripe."""
    for meeting in meetings:
        rows = slice(meeting.queries.row, meeting.queries.row + meeting.queries.tokens)
        own = _places(meeting.queries, q.device)[:, None]
        for stripe in meeting.keys:
            back = own - _places(stripe, q.device)
            seen = (back >= 0) & (back < (window or _ALL))
            met = slice(stripe.row, stripe.row + stripe.tokens)
            now = Partial(partial.out[rows], partial.lse[rows])
            result = folded(now, _attend(q[rows], keys[met], values[met], seen))
            partial.out[rows], partial.lse[rows] = result.out, result.lse


def _places(stripe: Stripe, device: torch.device) -> Tensor:
    return stripe.place + stripe.step * torch.arange(stripe.tokens, device=device)


def _attend(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Partial:
    """Queries [n, Hq, Dh] to keys [m, Hkv, Dh], of which ``seen`` [n, m] are."""
    group = q.shape[1] // keys.shape[1]
    k, v = (each.repeat_interleave(group, dim=1) for each in (keys, values))
    scores = torch.einsum("qhd,khd->qhk", q, k) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~seen[:, None], -math.inf)
    weights = scores.softmax(dim=-1).nan_to_num(0.0)
    return Partial(torch.einsum("qhk,khd->qhd", weights, v), scores.logsumexp(dim=-1))
