"""Operators over ``torch.distributed``: for groups that span hosts, and for who has no peer memory.

With several chunks, the collective of one runs beside the product of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from engine.groups.group import Meeting
    from engine.overlap.transport import Addend

_LEAST_ROWS = 128  # in a chunk


class CollectiveTransport:
    """:class:`~engine.overlap.transport.Transport` by all-gather and reduce-scatter.

    Args:
        meet: records an operation of this name, with so many bytes of this rank's.
        chunks: into how many parts each collective is cut at most; 1: nothing is overlapped.
    """

    def __init__(
        self,
        process_group: dist.ProcessGroup,
        *,
        meet: Callable[[str, int], Meeting],
        chunks: int = 4,
    ) -> None:
        self.rank = dist.get_rank(process_group)
        self.size = dist.get_world_size(process_group)
        self._process_group = process_group
        self._meet = meet
        self._chunks = chunks

    def gather(self, shard: Tensor) -> CollectiveGathering:
        return self._gather(shard, "all_gather")

    def _gather(self, shard: Tensor, name: str) -> CollectiveGathering:
        chunks = torch.split(shard.contiguous(), self._rows_of_chunks(shard.shape[0]))
        coming = [self._begin_gather(chunk) for chunk in chunks]
        return CollectiveGathering(coming, self._meet(name, shard.nbytes))

    def _rows_of_chunks(self, rows: int) -> int:
        return -(-rows // max(1, min(self._chunks, rows // _LEAST_ROWS)))

    def _begin_gather(self, chunk: Tensor) -> tuple[dist.Work, Tensor]:
        whole = chunk.new_empty(self.size * chunk.shape[0], chunk.shape[1])
        work = dist.all_gather_into_tensor(whole, chunk, group=self._process_group, async_op=True)
        return work, whole.view(self.size, *chunk.shape)

    def all_gather_matmul(
        self, shard: Tensor, weights: Sequence[Tensor]
    ) -> tuple[list[Tensor], CollectiveGathering]:
        gathering = self._gather(shard, "all_gather_matmul")
        if gathering.chunks == 1:
            whole = gathering.whole()
            return [torch.mm(whole, weight.t()) for weight in weights], gathering
        rows = shard.shape[0]
        products = [shard.new_empty(self.size, rows, weight.shape[0]) for weight in weights]
        self._multiply(shard, weights, [product[self.rank] for product in products])
        for part, came in gathering.parts():
            for rank in range(self.size):
                if rank != self.rank:
                    self._multiply(came[rank], weights, [each[rank, part] for each in products])
        return [product.flatten(0, 1) for product in products], gathering

    @staticmethod
    def _multiply(rows: Tensor, weights: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        for weight, out in zip(weights, outs, strict=True):
            torch.mm(rows, weight.t(), out=out)

    def reduce_scatter(self, addend: Addend, meanwhile: Callable[[], None] | None = None) -> Tensor:
        """Everybody's c-th rows make chunk c; it travels while c + 1 is computed."""
        m, n = addend.shape
        rows = m // self.size
        mine = torch.empty(rows, n, dtype=addend.dtype, device=addend.device)
        works = []
        for begin, end in self._bounds(rows):
            partial = mine.new_empty(self.size, end - begin, n)
            for owner in range(self.size):
                addend.write(slice(owner * rows + begin, owner * rows + end), partial[owner])
            works.append((self._reduce(partial, mine[begin:end]), partial))
        if meanwhile is not None:
            meanwhile()
        self._await("reduce_scatter", mine.nbytes * (self.size - 1), [work for work, _ in works])
        return mine

    def _bounds(self, rows: int) -> list[tuple[int, int]]:
        length = self._rows_of_chunks(rows)
        return [(begin, min(begin + length, rows)) for begin in range(0, rows, length)]

    def _reduce(self, partial: Tensor, out: Tensor) -> dist.Work:
        work: dist.Work = dist.reduce_scatter_tensor(
            out, partial.flatten(0, 1), group=self._process_group, async_op=True
        )
        return work

    def all_reduce(self, addend: Addend) -> Tensor:
        m, n = addend.shape
        total = torch.empty(m, n, dtype=addend.dtype, device=addend.device)
        works = []
        for begin, end in self._bounds(m):
            part = total[begin:end]
            addend.write(slice(begin, end), part)
            works.append(dist.all_reduce(part, group=self._process_group, async_op=True))
        self._await("all_reduce", total.nbytes, works)
        return total

    def _await(self, name: str, nbytes: int, works: Sequence[dist.Work]) -> None:
        meeting = self._meet(name, nbytes)
        with meeting:
            for work in works:
                work.wait()
        meeting.record()

    def check(self) -> None:
        """Who lost a peer has been told."""

    def close(self) -> None:
        """Nothing is held: the process group is its owner's."""


class CollectiveGathering:
    """:class:`~engine.overlap.transport.Gathering` of chunks, each of which holds rows of all.

    Args:
        coming: each with what it fills, [R, rows of the chunk, K].
    """

    def __init__(self, coming: list[tuple[dist.Work, Tensor]], meeting: Meeting) -> None:
        self._coming = coming
        self._meeting = meeting
        self._came = False
        self._whole: Tensor | None = None

    @property
    def chunks(self) -> int:
        """In how many parts it comes."""
        return len(self._coming)

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of a shard, and those rows of all ranks [R, rows, K], as they come."""
        begin = 0
        for work, came in self._coming:
            if not self._came:
                with self._meeting:
                    work.wait()
            yield slice(begin, begin + came.shape[1]), came
            begin += came.shape[1]
        if not self._came:
            self._came = True
            self._meeting.record()

    def whole(self) -> Tensor:
        if self._whole is None:
            parts = [came for _, came in self.parts()]
            self._whole = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).flatten(0, 1)
        return self._whole
