"""Terms of sums over ranks: :class:`~engine.overlap.transport.Addend`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.overlap.precision import result_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Product:
    """The sum of products a_i [M, K_i] times b_i [K_i, N].

    Attributes:
        operands: the type of these; ``dtype`` is that of the sum.
    """

    def __init__(self, factors: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.factors = tuple(factors)
        a, b = factors[0]
        self.shape = (a.shape[0], b.shape[1])
        self.depth = sum(a.shape[1] for a, _ in factors)
        self.operands, self.dtype, self.device = a.dtype, result_dtype(a.dtype), a.device

    def write(self, rows: slice, out: Tensor) -> None:
        (a, b), *more = self.factors
        torch.mm(a[rows], b, out=out)
        for a, b in more:
            out.addmm_(a[rows], b)


class Given:
    """A term [M, N] that is there already."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.shape = (tensor.shape[0], tensor.shape[1])
        self.depth = 0
        self.dtype, self.device = tensor.dtype, tensor.device

    def write(self, rows: slice, out: Tensor) -> None:
        out.copy_(self.tensor[rows])
