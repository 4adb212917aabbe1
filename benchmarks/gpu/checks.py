"""Right results on random shapes, and an end of waiting for a peer that never comes."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.emulated_ranks import EmulatedRanks
from benchmarks.gpu.session import drawn
from engine.overlap.addend import Product
from engine.overlap.choices import Choice
from engine.overlap.kernels.tile_shape import CommunicationShape, default_shape
from engine.overlap.precision import FP8, result_dtype
from engine.peers.memory import PeerLost

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.gpu.session import Session

FAR = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2, FP8: 2e-2}
"""Largest error, of the largest value; fp8 operands are exact in the reference."""
_SPLITS = (1, 4, 16)


def check_kernels(session: Session) -> dict[str, Any]:
    """Both operators on random shapes, dtypes, numbers of ranks and choices."""
    chance = random.Random(5)  # noqa: S311 - the same cases each time
    worst: dict[str, float] = {}
    cases = 0
    for _ in range(6 if session.dry else 60):
        for dtype in session.dtypes:
            if not session.has(20):
                break
            size = chance.choice((2, 3, 8))
            rows = chance.randint(1, 12 if session.dry else 700)
            n, k = (16 * chance.randint(1, 4 if session.dry else 60) for _ in range(2))
            choice = Choice(
                tile=default_shape(rows * size, dtype.itemsize),
                communication=CommunicationShape(splits=chance.choice(_SPLITS), direction="pull"),
            )
            for check in (check_gathering, check_scattering):
                far = check(session, (rows, n, k), size, dtype, choice)
                name = f"{check.__name__} {dtype}"
                worst[name] = max(worst.get(name, 0.0), far)
                cases += 1
                if not far <= FAR[dtype]:  # nor NaN
                    raise AssertionError(f"{name}: {far} at {rows=} {size=} {n=} {k=} {choice}")
    return {"cases": cases, "worst": worst}


def check_gathering(
    session: Session, sizes: tuple[int, int, int], size: int, dtype: torch.dtype, choice: Choice
) -> float:
    """How far the product of gathered rows is from float64's."""
    rows, n, k = sizes
    x, w = (drawn(each, dtype, session.device) for each in ((rows * size, k), (n, k)))
    ranks = EmulatedRanks(session, size, choice)
    ranks.make_room(x.nbytes)
    shards = x.chunk(size)
    for rank in range(1, size):
        ranks.lay(rank, rank * rows * k * dtype.itemsize, shards[rank])
    [out], _ = ranks.transport.all_gather_matmul(shards[0], [w])
    ranks.transport.check()
    far = distance(out, x.double() @ w.double().t())
    ranks.close()
    return far


def check_scattering(
    session: Session, sizes: tuple[int, int, int], size: int, dtype: torch.dtype, choice: Choice
) -> float:
    """How far the reduced rows are, and those that were sent to other ranks."""
    rows, n, k = sizes
    x, w = (drawn(each, dtype, session.device) for each in ((rows * size, k), (n, k)))
    exact = x.double() @ w.double().t()
    ranks = EmulatedRanks(session, size, choice)
    term = torch.empty(rows, n, dtype=result_dtype(dtype), device=session.device)
    ranks.make_room(term.nbytes * size)
    total = exact[:rows].clone()
    for rank in range(1, size):
        term.normal_()
        ranks.lay(0, rank * term.nbytes, term)
        total += term.double()
    out = ranks.transport.reduce_scatter(Product(((x, w.t()),)))
    ranks.transport.check()
    far = distance(out, total)
    for rank in range(1, size):
        sent = exact[rank * rows : (rank + 1) * rows].cpu()
        far = max(far, min(distance(each.cpu(), sent) for each in ranks.found(rank, 0, term)))
    ranks.close()
    return far


def distance(found: Tensor, exact: Tensor) -> float:
    """The largest error over the largest value; NaN where something is missing."""
    return float((found.double() - exact).abs().max() / exact.abs().max())


def check_lost_peer(session: Session) -> dict[str, Any]:
    """A kernel whose peer never comes must end, and the rank must be told who it was."""
    ranks = EmulatedRanks(session, 2, Choice(), timeout_s=1.0)
    ranks.make_room(1 << 16)
    ranks.let_come(0)
    begun = time.monotonic()
    try:
        ranks.transport.all_reduce(
            Product(((drawn((16, 16), torch.float32, session.device),) * 2,))
        )
        ranks.transport.check()
    except PeerLost as error:
        return {"told": str(error.what), "after_s": time.monotonic() - begun}
    raise AssertionError("nobody was told")
