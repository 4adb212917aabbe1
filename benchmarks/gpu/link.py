"""Operators over an emulated link: shards of other ranks cross the bus of the host."""

from __future__ import annotations

import itertools
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.emulated_ranks import EmulatedRanks
from benchmarks.gpu.products import MLPS, Mlp, fastest_tile
from benchmarks.gpu.session import drawn, seconds_of
from engine.overlap.addend import Product
from engine.overlap.choices import Choice
from engine.overlap.kernels.launching import Place, add_terms, product
from engine.overlap.kernels.tile_shape import CommunicationShape, TileShape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from benchmarks.gpu.session import Call, Session

TARGET = 0.90
"""Of overlap efficiency, where the link takes no longer than the product."""
_ROWS, _RANKS, _SPLITS = 4096, (2, 4, 8), (1, 4, 16)


def time_link(session: Session) -> list[dict[str, Any]]:
    """Both operators over the emulated link, bf16, both MLPs at several numbers of ranks."""
    return [
        time_operator(session, mlp, size, gathers=gathers)
        for size, mlp, gathers in itertools.product(_RANKS, MLPS, (True, False))
    ]


def time_operator(session: Session, mlp: Mlp, size: int, *, gathers: bool) -> dict[str, Any]:
    """One of them: gathered rows times the first weight, or a scattered sum of the second."""
    name = f"{mlp.name}, {'all_gather_matmul' if gathers else 'matmul_reduce_scatter'}"
    told = {"name": name, "ranks": size}
    if not session.has(40):
        return told | {"skipped": "no time left"}
    m = max(session.sized(_ROWS), 2 * size)
    n, k = (session.sized(each) for each in mlp.sizes(first=gathers, ranks=size))
    x, w = (drawn(each, session.half, session.device) for each in ((m, k), (n, k)))
    time_one = time_gathering if gathers else time_scattering
    return told | {"m": m, "n": n, "k": k} | time_one(session, size, x, w)


def time_gathering(session: Session, size: int, x: Tensor, w: Tensor) -> dict[str, Any]:
    """AllGather and product."""
    tile = fastest_tile(x, w, session)
    ranks = EmulatedRanks(session, size, Choice(tile=tile))
    ranks.make_room(x.nbytes)
    rows = x.shape[0] // size
    here = torch.empty_like(x)
    remote = [ranks.memory.view(rank, 0, (rows, x.shape[1]), x.dtype) for rank in range(1, size)]

    def carry() -> None:
        for rank, shard in enumerate(remote, 1):
            here[rank * rows : (rank + 1) * rows].copy_(shard, non_blocking=True)

    def fused(splits: int) -> None:
        ranks.choose(
            Choice(tile=tile, communication=CommunicationShape(splits=splits, direction="pull"))
        )
        ranks.transport.all_gather_matmul(x[:rows], [w])

    ways = common_ways(session, x, w, tile, carry=carry)
    ways |= {f"fused {splits}": lambda s=splits: fused(s) for splits in _SPLITS}  # type: ignore[misc]
    nbytes = rows * (size - 1) * x.shape[1] * x.itemsize
    told = efficiency_of(seconds_of(ways, session), nbytes)
    ranks.close()
    return told


def time_scattering(session: Session, size: int, x: Tensor, w: Tensor) -> dict[str, Any]:
    """Product and ReduceScatter; terms of others lie here already."""
    tile = fastest_tile(x, w, session)
    ranks = EmulatedRanks(session, size, Choice(tile=tile))
    rows, n = x.shape[0] // size, w.shape[0]
    slot = rows * n * x.itemsize
    ranks.make_room(slot * size)
    for rank in range(1, size):
        ranks.lay(0, rank * slot, drawn((rows, n), x.dtype, session.device))
    term = torch.empty(x.shape[0], n, dtype=x.dtype, device=session.device)
    remote = [ranks.memory.view(rank, 0, (rows, n), x.dtype) for rank in range(1, size)]

    def carry() -> None:
        for rank, there in enumerate(remote, 1):
            there.copy_(term[rank * rows : (rank + 1) * rows], non_blocking=True)

    out = torch.empty(rows, n, dtype=x.dtype, device=session.device)
    terms = ranks.memory.addresses(0)[:1] + slot * torch.arange(size, device=session.device)

    def add() -> None:
        place, signals = Place(rank=0, size=size), ranks.memory.signals(0)
        add_terms(terms, out, signals, epoch=0, place=place, awaits=False)

    ways = common_ways(session, x, w, tile, carry=carry, after=add)
    ways["fused"] = lambda: ranks.transport.reduce_scatter(Product(((x, w.t()),)))
    told = efficiency_of(seconds_of(ways, session), slot * (size - 1))
    ranks.close()
    return told


def common_ways(
    session: Session,
    x: Tensor,
    w: Tensor,
    tile: TileShape,
    *,
    carry: Call,
    after: Call = lambda: None,
) -> dict[str, Call]:
    """The product (and what follows it), the link, one after the other, and both at once."""
    beside = None if session.dry else torch.cuda.Stream(session.device)  # type: ignore[no-untyped-call]

    def both() -> None:
        if beside is None:
            carry()
        else:
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                carry()
        torch.mm(x, w.t())
        after()
        if beside is not None:
            torch.cuda.current_stream().wait_stream(beside)

    return {
        "cublas": lambda: (torch.mm(x, w.t()), after()),
        "own": lambda: (product(x, w, shape=tile), after()),
        "link": carry,
        "serial": lambda: (carry(), torch.mm(x, w.t()), after()),
        "both": both,
    }


def efficiency_of(times: Mapping[str, Sequence[float]], nbytes: int) -> dict[str, Any]:
    """Overlap efficiency of the best fused way, and of a product that waits for nothing."""
    typical = {name: median(each) for name, each in times.items()}
    gemm = min(typical["cublas"], typical["own"])
    best = min((name for name in typical if name.startswith("fused")), key=typical.__getitem__)
    exposed = typical["serial"] - gemm
    speed = nbytes / typical["link"] / 1e9
    may_hide = typical["link"] <= gemm
    return {
        "label": f"one GPU, emulated link at {speed:.1f} GB/s",
        "ms": {name: 1000 * each for name, each in typical.items()},
        "way": best,
        "speed_up": typical["serial"] / typical[best],
        "efficiency": 1 - (typical[best] - gemm) / exposed,
        "bound_by_interference": 1 - (typical["both"] - gemm) / exposed,
        "target": TARGET if may_hide else None,
    }
