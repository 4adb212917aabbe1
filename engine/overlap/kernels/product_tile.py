"""The parts that all products have in common: tiles, their order, and waiting for what they need.

``from __future__ import annotations`` is left out: Triton reads annotations as they are.
"""

import triton
import triton.language as tl


@triton.jit
def await_signal(signal, epoch):
    """Until ``signal`` holds ``epoch`` or a later one, and what was written before it is seen.

    A poisoned signal (``engine.peers.device.POISON``) ends every wait.
    """
    while tl.atomic_add(signal, 0, sem="acquire", scope="sys") < epoch:
        pass


@triton.jit
def tile_of(index, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """Rows and columns in tiles of the ``index``-th: down a few rows, then to the next column."""
    in_group = GROUP_M * tiles_n
    first_m = (index // in_group) * GROUP_M
    height = tl.minimum(tiles_m - first_m, GROUP_M)
    within = index % in_group
    return first_m + within % height, within // height


@triton.jit
def product_tile(
    x,
    weight,
    rows,
    columns,
    rows_end,
    n,
    k,
    stride_x,
    stride_n,
    stride_k,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """``x[rows] @ weight[columns].T`` in float32, [BLOCK_M, BLOCK_N].

    Rows and columns beyond the end are computed from others and not to be stored: wrapping around
    keeps masks, which cost a fifth of the speed, out of the loop.
    """
    depth = tl.arange(0, BLOCK_K)
    x_rows = (rows % rows_end).to(tl.int64)
    w_rows = (columns % n).to(tl.int64)
    x_tile = x + x_rows[:, None] * stride_x + depth[None, :]
    w_tile = weight + w_rows[None, :] * stride_n + depth[:, None] * stride_k
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for begin in range(0, k, BLOCK_K):
        if EVEN_K:
            a = tl.load(x_tile)
            b = tl.load(w_tile)
        else:
            left = depth < k - begin
            a = tl.load(x_tile, mask=left[None, :], other=0.0)
            b = tl.load(w_tile, mask=left[:, None], other=0.0)
        # fp8 on sm_90 adds in fewer than 32 bits: no longer than over one tile
        total = tl.dot(a, b, total, input_precision="ieee", max_num_imprecise_acc=BLOCK_K)
        x_tile += BLOCK_K
        w_tile += BLOCK_K * stride_k
    return total
