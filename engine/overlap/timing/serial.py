"""Ways with nothing hidden: communicate, then multiply; multiply, then communicate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from engine.overlap.addend import Given

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from engine.overlap.transport import Addend, Gathering, Transport


class Here:
    """:class:`~engine.overlap.transport.Gathering` of what has come."""

    def __init__(self, whole: Tensor) -> None:
        self._whole = whole

    def whole(self) -> Tensor:
        return self._whole


class LibraryTransport:
    """:class:`~engine.overlap.transport.Transport` by calls of torch.distributed that block."""

    def __init__(self, process_group: dist.ProcessGroup) -> None:
        self.rank = dist.get_rank(process_group)
        self.size = dist.get_world_size(process_group)
        self._group = process_group

    def gather(self, shard: Tensor) -> Here:
        whole = shard.new_empty(shard.shape[0] * self.size, shard.shape[1])
        dist.all_gather_into_tensor(whole, shard.contiguous(), group=self._group)
        return Here(whole)

    def all_gather_matmul(
        self, shard: Tensor, weights: Sequence[Tensor]
    ) -> tuple[list[Tensor], Here]:
        here = self.gather(shard)
        return [torch.mm(here.whole(), weight.t()) for weight in weights], here

    def reduce_scatter(self, addend: Addend, meanwhile: Callable[[], None] | None = None) -> Tensor:
        term = written(addend)
        if meanwhile is not None:
            meanwhile()
        mine = term.new_empty(term.shape[0] // self.size, term.shape[1])
        dist.reduce_scatter_tensor(mine, term, group=self._group)
        return mine

    def all_reduce(self, addend: Addend) -> Tensor:
        term = written(addend)
        dist.all_reduce(term, group=self._group)
        return term

    def check(self) -> None:
        """The library tells its errors itself."""

    def close(self) -> None:
        """Nothing is held: the process group is its owner's."""


class SerialTransport:
    """The same over one of our transports."""

    def __init__(self, inner: Transport) -> None:
        self.rank = inner.rank
        self.size = inner.size
        self._inner = inner

    def gather(self, shard: Tensor) -> Gathering:
        gathering = self._inner.gather(shard)
        gathering.whole()
        return gathering

    def all_gather_matmul(
        self, shard: Tensor, weights: Sequence[Tensor]
    ) -> tuple[list[Tensor], Gathering]:
        gathering = self.gather(shard)
        return [torch.mm(gathering.whole(), weight.t()) for weight in weights], gathering

    def reduce_scatter(self, addend: Addend, meanwhile: Callable[[], None] | None = None) -> Tensor:
        term = Given(written(addend))
        if meanwhile is not None:
            meanwhile()
        return self._inner.reduce_scatter(term)

    def all_reduce(self, addend: Addend) -> Tensor:
        return self._inner.all_reduce(Given(written(addend)))

    def check(self) -> None:
        self._inner.check()

    def close(self) -> None:
        """The inner transport is its owner's."""


def written(addend: Addend) -> Tensor:
    """The whole term, in memory of this rank's own."""
    term = torch.empty(addend.shape, dtype=addend.dtype, device=addend.device)
    addend.write(slice(0, addend.shape[0]), term)
    return term
