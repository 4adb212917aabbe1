"""Kernels: a product alone, one that awaits its rows, one that scatters its tiles; and a sum.

Each is one launch. Rows of a rank's shard are a multiple of nothing: a tile may have rows of many
shards. (Were tiles to end with a shard, 64 tokens of 8 ranks would read every weight 8 times.)

``first_row``, that of the rank to begin with, is an argument of which Triton knows nothing, and not
computed here: of ``(order + rank * shard_rows) % m``, all multiples of 16, Triton 3.7.1 believes
that every row begins at one, whatever the stride, and loads 16 bytes where they are not aligned.

``from __future__ import annotations`` is left out: Triton reads annotations as they are.
"""

import triton
import triton.language as tl

from engine.overlap.kernels.product_tile import await_signal, product_tile, tile_of


@triton.jit(do_not_specialize=["epoch", "rank", "first_row"])
def gathered_product(
    gathered,
    weight,
    out,
    signals,
    epoch,
    shard_rows,
    split_rows,
    n,
    k,
    stride_x,
    stride_n,
    stride_k,
    stride_out,
    scale,
    rank,
    first_row,
    SIZE: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    EVEN_K: tl.constexpr,
    AWAIT: tl.constexpr,
):
    """``out = scale * gathered @ weight.T``, of which the rows of others come while it runs.

    Begins with this rank's own rows, and goes on in the order in which shards arrive (Flux,
    section 4.1). Signal ``MAX_SPLITS * r + s`` says that split s of the shard of rank r is there.
    """
    m = shard_rows * SIZE
    tiles_n = tl.cdiv(n, BLOCK_N)
    tile_m, tile_n = tile_of(tl.program_id(0), tl.cdiv(m, BLOCK_M), tiles_n, GROUP_M)
    begin = tile_m * BLOCK_M  # counted from this rank's first row, and around
    end = tl.minimum(begin + BLOCK_M, m)
    if AWAIT:
        for step in range(tl.maximum(begin // shard_rows, 1), tl.cdiv(end, shard_rows)):
            shard = (rank + step) % SIZE
            first = tl.maximum(begin - step * shard_rows, 0)
            last = tl.minimum(end - step * shard_rows, shard_rows)
            for split in range(first // split_rows, tl.cdiv(last, split_rows)):
                await_signal(signals + shard * MAX_SPLITS + split, epoch)
    order = begin + tl.arange(0, BLOCK_M)
    rows = (order + first_row) % m
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    total = product_tile(
        gathered,
        weight,
        rows,
        columns,
        m,
        n,
        k,
        stride_x,
        stride_n,
        stride_k,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        EVEN_K,
    )
    to = out + rows.to(tl.int64)[:, None] * stride_out + columns[None, :]
    inside = (order < m)[:, None] & (columns < n)[None, :]
    tl.store(to, (total * scale).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["epoch", "rank", "first_row", "signal_index"])
def scattered_product(
    x,
    weight,
    slots,
    signals,
    done,
    epoch,
    shard_rows,
    n,
    k,
    stride_x,
    stride_n,
    stride_k,
    scale,
    rank,
    first_row,
    signal_index,
    SIZE: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """``scale * x @ weight.T``, each tile stored into this rank's slot with the owner of its rows.

    Begins with the rows of the next rank, so that ranks do not all write to one owner at once, and
    ends with its own (Flux, section 4.2).

    Args:
        slots: address of this rank's slot [shard_rows, n] with each owner, [SIZE] int64.
        signals: address of each owner's signals, [SIZE] int64; the last tile for an owner writes
            ``epoch`` there, at ``signal_index``.
        done: tiles stored for each owner, [SIZE] int32; zero before and after.
    """
    m = shard_rows * SIZE
    tiles_n = tl.cdiv(n, BLOCK_N)
    tile_m, tile_n = tile_of(tl.program_id(0), tl.cdiv(m, BLOCK_M), tiles_n, GROUP_M)
    begin = tile_m * BLOCK_M  # counted from the next rank's first row, and around
    end = tl.minimum(begin + BLOCK_M, m)
    order = begin + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    total = product_tile(
        x,
        weight,
        (order + first_row) % m,
        columns,
        m,
        n,
        k,
        stride_x,
        stride_n,
        stride_k,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        EVEN_K,
    )
    result = (total * scale).to(OUT)
    for step in range(begin // shard_rows, tl.cdiv(end, shard_rows)):
        owner = (rank + 1 + step) % SIZE
        rows = order - step * shard_rows
        slot = tl.multiple_of(tl.load(slots + owner).to(tl.pointer_type(OUT)), 16)
        to = slot + rows.to(tl.int64)[:, None] * n + columns[None, :]
        inside = ((rows >= 0) & (rows < shard_rows))[:, None] & (columns < n)[None, :]
        tl.store(to, result, mask=inside)
        tl.debug_barrier()  # all threads of this program have stored
        tiles_m = tl.cdiv((step + 1) * shard_rows, BLOCK_M) - step * shard_rows // BLOCK_M
        if tl.atomic_add(done + owner, 1, sem="acq_rel", scope="gpu") == tiles_m * tiles_n - 1:
            tl.atomic_xchg(done + owner, 0, sem="relaxed", scope="gpu")
            theirs = tl.load(signals + owner).to(tl.pointer_type(tl.int32))
            tl.atomic_xchg(theirs + signal_index, epoch, sem="release", scope="sys")


@triton.jit(do_not_specialize=["epoch", "rank"])
def sum_of_terms(
    terms,
    out,
    signals,
    epoch,
    count,
    rank,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    AWAIT: tl.constexpr,
):
    """Add one term of each rank, in the order of the ranks, in float32.

    Args:
        terms: their addresses, [SIZE] int64, each of ``count`` elements like those of ``out``.
        signals: that each rank's term is there, [SIZE] int32.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    if AWAIT:
        for other in range(SIZE):
            if other != rank:
                await_signal(signals + other, epoch)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for term in range(SIZE):
        base = tl.load(terms + term).to(tl.pointer_type(out.dtype.element_ty))
        base = tl.multiple_of(base, 16)
        total += tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["epoch", "count"])
def await_signals(signals, epoch, count, STRIDE: tl.constexpr):
    """Hold a stream until ``count`` signals, STRIDE apart, have come: one program."""
    for index in range(count):
        await_signal(signals + index * STRIDE, epoch)
