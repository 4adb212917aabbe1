"""Attention of single queries to those of their keys and values that lie in one pool, whose slots
are tokens (decode over several instances: LoongServe, arXiv 2404.09526, section 4.2; a long text in
pieces: Flash-Decoding)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from engine.kernels.partial_softmax import Partial, absorb, merge, normalized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    Runs = Sequence[tuple[int, int]]
    """Of one query: the first slot and the number of each run of neighbouring slots."""

PIECE_TOKENS = 512  # always the same: what a query gets does not depend on who else is there
TILES = {2: 64, 4: 16}  # tokens at a time, by a number's bytes: more of float32 spill registers
_FEWEST_ROWS = 16  # of a product on tensor cores
WARPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Work of one launch, the same for all layers.

    Attributes:
        slots: of all queries' tokens, one query's behind another's, [total] (int32).
        pieces: query, first of ``slots`` and tokens of each piece, [P, 3] (int32).
        order: 0, 1, ... [P] (int32).
        bounds: where each query's pieces begin, and where the last one's end, [n + 1] (int32).
        single: whether every query has one piece.
    """

    slots: Tensor
    pieces: Tensor
    order: Tensor
    bounds: Tensor
    single: bool

    @classmethod
    def of(cls, runs: Sequence[Runs], device: torch.device) -> Pieces:
        """Of n queries; under a window, of what each sees. What is copied is as long as the runs
        are many: their slots are counted out on the device."""
        tokens = torch.tensor([sum(n for _, n in own) for own in runs], dtype=torch.long)
        counts = (tokens + PIECE_TOKENS - 1) // PIECE_TOKENS
        query = torch.repeat_interleave(counts)
        bounds = _from_zero(counts)
        before = (torch.arange(len(query)) - bounds[query]) * PIECE_TOKENS
        pieces = torch.stack(
            (
                query,
                _from_zero(tokens)[query] + before,
                (tokens[query] - before).clamp(max=PIECE_TOKENS),
            ),
            dim=1,
        )
        return cls(
            slots=_slots([run for own in runs for run in own], device),
            pieces=pieces.to(device, torch.int32),
            order=torch.arange(len(query), device=device, dtype=torch.int32),
            bounds=bounds.to(device, torch.int32),
            single=bool((counts == 1).all()),
        )


def _slots(runs: Runs, device: torch.device) -> Tensor:
    pairs = torch.tensor(runs, dtype=torch.long).view(-1, 2)
    first, tokens = pairs.unbind(dim=1)
    ends = _from_zero(tokens)
    total = int(ends[-1])
    shifts, tokens = torch.stack((first - ends[:-1], tokens)).to(device)
    own = torch.repeat_interleave(shifts, tokens, output_size=total)
    return (own + torch.arange(total, device=device)).to(torch.int32)


def _from_zero(counts: Tensor) -> Tensor:
    """Where each of so many begin, one behind another, and where the last ones end."""
    return torch.cat((counts.new_zeros(1), counts.cumsum(dim=0)))


@triton.jit
def attend_piece(
    q, keys, values, slots, pieces, out, lse, scale, group,
    key_token, key_head, value_token, value_head,
    WIDTH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """One query's heads that share a key head: ROWS of them, of which ``group`` are."""
    piece = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    heads = tl.num_programs(1) * group
    query = tl.load(pieces + piece * 3).to(tl.int64)
    begin = tl.load(pieces + piece * 3 + 1)
    end = begin + tl.load(pieces + piece * 3 + 2)
    row = tl.arange(0, ROWS)
    column = tl.arange(0, WIDE)
    inside = column < WIDTH
    ours = (row < group)[:, None] & inside[None, :]
    among = head * group + row
    at = (query * heads + among)[:, None] * WIDTH + column[None, :]
    queries = tl.load(q + at, mask=ours, other=0.0)
    highest = tl.full((ROWS,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    sums = tl.zeros((ROWS, WIDE), dtype=tl.float32)
    for start in range(begin, end, TOKENS):
        token = start + tl.arange(0, TOKENS)
        known = token < end
        slot = tl.load(slots + token, mask=known, other=0).to(tl.int64)[:, None]
        whole = known[:, None] & inside[None, :]
        its_key = slot * key_token + head * key_head + column[None, :]
        key = tl.load(keys + its_key, mask=whole, other=0.0)
        scores = tl.dot(queries, tl.trans(key), input_precision="ieee") * scale
        scores = tl.where(known[None, :], scores, -float("inf"))
        its_value = slot * value_token + head * value_head + column[None, :]
        value = tl.load(values + its_value, mask=whole, other=0.0)
        highest, total, sums = absorb(scores, value, highest, total, sums)
    sums, highest = normalized(highest, total, sums)
    to = piece * heads + among
    tl.store(out + to[:, None] * WIDTH + column[None, :], sums, mask=ours)
    tl.store(lse + to, highest, mask=row < group)


def partial_decode(q: Tensor, keys: Tensor, values: Tensor, pieces: Pieces) -> Partial:
    """What n queries have of their keys in this pool.

    Args:
        q: [n, Hq, Dh].
        keys, values: a pool of M slots, [M, Hkv, Dh] of the type of ``q``, with any strides but 1
            within a head: one of [Hkv, M, Dh] is given transposed.
        pieces: of these queries; one may have nothing here.
    """
    assert keys.stride(2) == values.stride(2) == 1, "a head's numbers lie side by side"
    q = q.contiguous()
    _, heads, width = q.shape
    shared, parts = keys.shape[1], len(pieces.pieces)
    out = q.new_empty(parts, heads, width, dtype=torch.float32)
    found = Partial(out, out.new_empty(parts, heads))
    group = heads // shared
    if parts:
        attend_piece[(parts, shared)](
            q, keys, values, pieces.slots, pieces.pieces, found.out, found.lse,
            math.log2(math.e) / math.sqrt(width), group,
            keys.stride(0), keys.stride(1), values.stride(0), values.stride(1),
            WIDTH=width, WIDE=max(16, triton.next_power_of_2(width)),
            ROWS=max(_FEWEST_ROWS, triton.next_power_of_2(group)),
            TOKENS=TILES[q.element_size()], num_warps=WARPS,
        )  # fmt: skip
    return found if pieces.single else merge(found, pieces.order, pieces.bounds)


def reference(q: Tensor, keys: Tensor, values: Tensor, runs: Sequence[Runs]) -> Partial:
    """The same in plain torch, query by query."""
    group = q.shape[1] // keys.shape[1]
    result = Partial.nothing(q)
    for row, own in enumerate(runs):
        slots = [slot for first, tokens in own for slot in range(first, first + tokens)]
        k, v = (each[slots].repeat_interleave(group, dim=1) for each in (keys, values))
        scores = torch.einsum("hd,thd->ht", q[row], k) / math.sqrt(q.shape[-1])
        result.out[row] = torch.einsum("ht,thd->hd", scores.softmax(dim=-1), v)
        result.lse[row] = scores.logsumexp(dim=-1)
    return result
