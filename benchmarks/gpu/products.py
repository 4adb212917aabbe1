"""Our product against cuBLAS, on the matrices of well-known models."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.session import drawn, once, seconds_of
from engine.overlap.kernels.launching import product
from engine.overlap.kernels.tile_shape import TileShape, candidates, default_shape

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.gpu.session import Call, Session


@dataclass(frozen=True)
class Mlp:
    """Of a model: its width, the columns of what it multiplies first, and the depth of the second.

    Llama's first is two matrices side by side.
    """

    name: str
    width: int
    columns: int
    depth: int

    def sizes(self, *, first: bool, ranks: int) -> tuple[int, int]:
        """(n, k) of a product, as one of the ranks has it."""
        return (self.columns // ranks, self.width) if first else (self.width, self.depth // ranks)


MLPS = (
    Mlp("GPT-3 175B", 12_288, 49_152, 49_152),
    Mlp("Llama-2 70B", 8192, 2 * 28_672, 28_672),
)
TARGET = 0.92
_RANKS = 8
_ROWS = (1024, 4096, 8192)
_TUNED = 14  # shapes that are compiled and timed, the likely best first


def time_products(session: Session) -> list[dict[str, Any]]:
    """Our unsplit product over cuBLAS, bf16, of one of 8 tensor-parallel ranks."""
    return [
        time_product(session, f"{mlp.name}, {'first' if first else 'second'}", m, n, k)
        for mlp, first, m in itertools.product(MLPS, (True, False), _ROWS)
        for n, k in [mlp.sizes(first=first, ranks=_RANKS)]
    ]


def time_product(session: Session, name: str, m: int, n: int, k: int) -> dict[str, Any]:
    """One of them, [m, k] times [n, k] transposed."""
    m, n, k = (session.sized(each) for each in (m, n, k))
    told = {"name": name, "m": m, "n": n, "k": k}
    if not session.has(60):
        return told | {"skipped": "no time left"}
    x, w = (drawn(each, session.half, session.device) for each in ((m, k), (n, k)))
    shape = fastest_tile(x, w, session)
    ways: dict[str, Call] = {
        "cublas": lambda: torch.mm(x, w.t()),
        "own": lambda: product(x, w, shape=shape),
    }
    times = seconds_of(ways, session)
    ratios = sorted(c / o for c, o in zip(times["cublas"], times["own"], strict=True))
    return told | {
        "tile": asdict(shape),
        "cublas_tflops": 2e-12 * m * n * k / median(times["cublas"]),
        "own_over_cublas": median(ratios),
        "interval": [ratios[len(ratios) // 20], ratios[-1 - len(ratios) // 20]],
        "target": TARGET,
    }


def fastest_tile(x: Tensor, w: Tensor, session: Session) -> TileShape:
    """Of some candidates, by a few calls each."""
    if session.dry:
        return default_shape(x.shape[0], x.itemsize)
    best, best_s = default_shape(x.shape[0], x.itemsize), float("inf")
    for shape in islice(candidates(x.itemsize, session.shared_limit), _TUNED):
        product(x, w, shape=shape)
        taken_s = min(once(lambda s=shape: product(x, w, shape=s), session) for _ in range(3))  # type: ignore[misc]
        if taken_s < best_s:
            best, best_s = shape, taken_s
    return best
