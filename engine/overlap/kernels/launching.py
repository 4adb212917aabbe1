"""The kernels as functions of tensors, of fp32, fp16, bf16 or fp8 (e4m3, with a scale)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from engine.overlap.kernels.products import (
    await_signals,
    gathered_product,
    scattered_product,
    sum_of_terms,
)
from engine.overlap.kernels.tile_shape import MAX_SPLITS, TileShape, default_shape
from engine.overlap.precision import result_dtype

if TYPE_CHECKING:
    from torch import Tensor

_SUM_BLOCK = 1024
_OF_DTYPE = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a rank stands in a group: its number, and how many there are."""

    rank: int
    size: int


def product(
    x: Tensor, weight: Tensor, *, shape: TileShape | None = None, scale: float = 1.0
) -> Tensor:
    """``scale * x @ weight.T`` of x [M, K] and weight [N, K], with no communication."""
    out = x.new_empty(x.shape[0], weight.shape[0], dtype=result_dtype(x.dtype))
    nothing = x.new_empty(1, dtype=torch.int32)
    _gathered(
        x,
        weight,
        out,
        nothing,
        epoch=0,
        splits=1,
        place=Place(rank=0, size=1),
        shape=shape,
        scale=scale,
        awaits=False,
    )
    return out


def gathered_rows_product(
    gathered: Tensor,
    weight: Tensor,
    signals: Tensor,
    *,
    epoch: int,
    splits: int,
    place: Place,
    shape: TileShape | None = None,
    scale: float = 1.0,
    awaits: bool = True,
) -> Tensor:
    """The same of rows [M, K] that are still coming, all but this rank's own.

    Args:
        signals: this rank's, int32; that of split s of rank r at ``MAX_SPLITS * r + s``.
        epoch: which signals must have reached.
        awaits: False: they are all there.
    """
    out = gathered.new_empty(gathered.shape[0], weight.shape[0], dtype=result_dtype(gathered.dtype))
    _gathered(
        gathered,
        weight,
        out,
        signals,
        epoch=epoch,
        splits=splits,
        place=place,
        shape=shape,
        scale=scale,
        awaits=awaits,
    )
    return out


def split_rows(shard_rows: int, splits: int) -> int:
    """Rows of each of at most ``splits`` copies of a shard."""
    return max(1, -(-shard_rows // min(splits, MAX_SPLITS)))


def _gathered(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    signals: Tensor,
    *,
    epoch: int,
    splits: int,
    place: Place,
    shape: TileShape | None,
    scale: float,
    awaits: bool,
) -> None:
    (m, k), n = x.shape, weight.shape[0]
    assert m % place.size == 0, f"{m} rows do not split into {place.size}"
    assert x.stride(1) == 1, f"rows lie apart: {x.stride()}"
    rows = m // place.size
    shape = shape or default_shape(m, x.itemsize)
    tiles = triton.cdiv(m, shape.block_m) * triton.cdiv(n, shape.block_n)
    gathered_product[(tiles,)](
        x,
        weight,
        out,
        signals,
        epoch,
        rows,
        split_rows(rows, splits),
        n,
        k,
        x.stride(0),
        weight.stride(0),
        weight.stride(1),
        out.stride(0),
        scale,
        place.rank,
        place.rank * rows,
        SIZE=place.size,
        MAX_SPLITS=MAX_SPLITS,
        AWAIT=awaits,
        **_meta(shape, rows, k),
    )


def product_to_owners(
    x: Tensor,
    weight: Tensor,
    *,
    slots: Tensor,
    signals: Tensor,
    done: Tensor,
    epoch: int,
    place: Place,
    signal_index: int,
    shape: TileShape | None = None,
    scale: float = 1.0,
) -> None:
    """``scale * x @ weight.T``, rows of each owner into this rank's slot with it.

    Args:
        slots: address of the slot [M/R, N] with each owner, [R] int64.
        signals: address of the signals of each owner, [R] int64; ``epoch`` is written there, at
            ``signal_index``, when all of its rows are stored.
        done: [R] int32, zero before and after.
    """
    (m, k), n = x.shape, weight.shape[0]
    assert m % place.size == 0, f"{m} rows do not split into {place.size}"
    assert x.stride(1) == 1, f"rows lie apart: {x.stride()}"
    rows = m // place.size
    shape = shape or default_shape(m, x.itemsize)
    tiles = triton.cdiv(m, shape.block_m) * triton.cdiv(n, shape.block_n)
    scattered_product[(tiles,)](
        x,
        weight,
        slots,
        signals,
        done,
        epoch,
        rows,
        n,
        k,
        x.stride(0),
        weight.stride(0),
        weight.stride(1),
        scale,
        place.rank,
        (place.rank + 1) * rows,
        signal_index,
        SIZE=place.size,
        OUT=_OF_DTYPE[result_dtype(x.dtype)],
        **_meta(shape, rows, k),
    )


def _meta(shape: TileShape, rows: int, k: int) -> dict[str, int | bool]:
    tiles = max(1, rows // shape.block_m)  # of a shard: groups of tiles end with it, or nearly
    groups = triton.cdiv(tiles, shape.group_m)
    return {
        "BLOCK_M": shape.block_m,
        "BLOCK_N": shape.block_n,
        "BLOCK_K": shape.block_k,
        "GROUP_M": triton.cdiv(tiles, groups),
        "EVEN_K": k % shape.block_k == 0,
        "num_stages": shape.stages,
        "num_warps": shape.warps,
    }


def add_terms(
    terms: Tensor,
    out: Tensor,
    signals: Tensor,
    *,
    epoch: int,
    place: Place,
    awaits: bool = True,
) -> Tensor:
    """``out`` = the sum of one term of each rank, in the order of the ranks.

    Args:
        terms: their addresses, [R] int64.
        signals: that each rank's is there, [R] int32; this rank's own is not looked at.
    """
    count = out.numel()
    sum_of_terms[(triton.cdiv(count, _SUM_BLOCK),)](
        terms,
        out,
        signals,
        epoch,
        count,
        place.rank,
        SIZE=place.size,
        BLOCK=_SUM_BLOCK,
        AWAIT=awaits,
    )
    return out


def hold_stream(signals: Tensor, *, epoch: int, count: int, stride: int = 1) -> None:
    """Let the current stream go on when ``count`` signals, ``stride`` apart, have reached
    ``epoch``."""
    await_signals[(1,)](signals, epoch, count, STRIDE=stride, num_warps=1)
