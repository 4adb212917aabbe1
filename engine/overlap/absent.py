"""The bound of what hiding communication can bring: operators that do not communicate at all."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import torch

from engine.overlap.addend import Product

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from engine.overlap.transport import Addend


class AbsentTransport:
    """:class:`~engine.overlap.transport.Transport` with nobody at the other end; for benchmarks.

    All of the rank's own products are computed. Shards of others are this rank's, which lie there
    already; sums have one term. So results are wrong, and of the right size.

    Args:
        multiply: [M, K] times [N, K] transposed; the library's, unless given.
    """

    def __init__(
        self, *, rank: int, size: int, multiply: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> None:
        self.rank = rank
        self.size = size
        self._multiply = multiply
        self._there: dict[tuple[int, int, torch.dtype], Tensor] = {}

    def gather(self, shard: Tensor) -> AbsentGathering:
        rows, width = shard.shape
        key = (rows, width, shard.dtype)
        if key not in self._there:
            self._there[key] = shard.detach().repeat(self.size, 1)
        return AbsentGathering(self._there[key])

    def all_gather_matmul(
        self, shard: Tensor, weights: Sequence[Tensor]
    ) -> tuple[list[Tensor], AbsentGathering]:
        gathering = self.gather(shard)
        multiply = self._multiply or _library_product
        return [multiply(gathering.whole(), weight) for weight in weights], gathering

    def reduce_scatter(self, addend: Addend, meanwhile: Callable[[], None] | None = None) -> Tensor:
        if meanwhile is not None:
            meanwhile()
        rows = addend.shape[0] // self.size
        return self.all_reduce(addend)[self.rank * rows : (self.rank + 1) * rows]

    def all_reduce(self, addend: Addend) -> Tensor:
        if self._multiply is not None and isinstance(addend, Product):
            return reduce(torch.add, (self._multiply(a, b.t()) for a, b in addend.factors))
        total = torch.empty(addend.shape, dtype=addend.dtype, device=addend.device)
        addend.write(slice(0, addend.shape[0]), total)
        return total

    def check(self) -> None:
        """Who lost a peer has been told."""

    def close(self) -> None:
        """Nothing is held."""


def _library_product(x: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(x, weight.t())


class AbsentGathering:
    """:class:`~engine.overlap.transport.Gathering` of what is there."""

    def __init__(self, whole: Tensor) -> None:
        self._whole = whole

    def whole(self) -> Tensor:
        return self._whole
