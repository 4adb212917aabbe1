"""Operators between CPU ranks of one host, in memory that all of them have mapped.

Flux (arXiv 2406.06858) hides the copying between ranks inside of the product. Here most of it is
not there to be hidden: a rank writes its shard once into the place that every rank multiplies
from, and its partial products straight into slots of their owners. What is left is waiting for a
late rank, and that is hidden by order: own rows first where rows are gathered, own rows last where
products are scattered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.overlap.choices import Choices, Sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from engine.groups.group import Meeting
    from engine.overlap.transport import Addend
    from engine.peers.memory import PeerMemory
    from engine.peers.workspace import Turn, Workspace

_HOME = 0  # in this rank's buffer lie the rows of all: contiguous, so that they are one matrix
# A product is faster whole than in parts, unless these are large. It pays sooner to make parts of
# what is scattered: each is read from the cache of who made it. (2 ranks, MKL: docs/log.md.)
_GATHERED_ROWS, _SCATTERED_ROWS = 1024, 192
_WHOLE_SUM_RANKS = 2  # so few read whole terms sooner than they scatter and gather them


class SharedTransport:
    """:class:`~engine.overlap.transport.Transport` through peer memory.

    Args:
        meet: records an operation of this name, with so many bytes of this rank's.

    Attributes:
        choices: what is known to be fastest; the same on all ranks.
    """

    def __init__(
        self,
        workspace: Workspace[PeerMemory],
        *,
        rank: int,
        size: int,
        meet: Callable[[str, int], Meeting],
        choices: Choices | None = None,
    ) -> None:
        self.rank = rank
        self.size = size
        self._workspace = workspace
        self._meet = meet
        self.choices = choices or Choices()
        self._others = [(rank + step) % size for step in range(1, size)]

    def gather(self, shard: Tensor) -> SharedGathering:
        return self._gather(shard, "all_gather")

    def _gather(self, shard: Tensor, name: str) -> SharedGathering:
        rows, width = shard.shape
        turn = self._workspace.begin(shard.nbytes * self.size)
        whole = turn.view(_HOME, (rows * self.size, width), shard.dtype)
        whole[self.rank * rows : (self.rank + 1) * rows].copy_(shard)
        turn.memory.publish(turn.epoch)
        return SharedGathering(turn, whole, self._others, self._meet(name, shard.nbytes))

    def all_gather_matmul(
        self, shard: Tensor, weights: Sequence[Tensor]
    ) -> tuple[list[Tensor], SharedGathering]:
        rows = shard.shape[0]
        gathering = self._gather(shard, "all_gather_matmul")
        n = sum(weight.shape[0] for weight in weights)
        sizes = Sizes.of("all_gather_matmul", rows * self.size, n, shard.shape[1], shard.dtype)
        if not self._in_parts_pays(sizes, rows >= _GATHERED_ROWS):
            whole = gathering.whole()
            return [torch.mm(whole, weight.t()) for weight in weights], gathering
        products = [shard.new_empty(rows * self.size, weight.shape[0]) for weight in weights]
        for rank in (self.rank, *self._others):
            part = slice(rank * rows, (rank + 1) * rows)
            came = gathering.part(rank, part)
            for weight, product in zip(weights, products, strict=True):
                torch.mm(came, weight.t(), out=product[part])
        return products, gathering

    def reduce_scatter(self, addend: Addend, meanwhile: Callable[[], None] | None = None) -> Tensor:
        rows = addend.shape[0] // self.size
        sizes = Sizes.of("reduce_scatter", *addend.shape, addend.depth, addend.dtype)
        in_parts = self._in_parts_pays(sizes, rows >= _SCATTERED_ROWS)
        reduce = self._in_parts if in_parts else self._in_one
        return reduce(addend, rows, meanwhile)

    def _in_parts_pays(self, sizes: Sizes, unless_known: bool) -> bool:
        choice = self.choices.of(sizes)
        known = choice.in_parts if choice is not None else None
        return unless_known if known is None else known

    def _in_one(self, addend: Addend, rows: int, meanwhile: Callable[[], None] | None) -> Tensor:
        """One term into this rank's buffer, where the others find their rows."""
        turn = self._write_whole(addend)
        if meanwhile is not None:
            meanwhile()
        terms = self._await_whole(turn, addend, "reduce_scatter")
        return _sum([term[self.rank * rows : (self.rank + 1) * rows] for term in terms])

    def _in_parts(self, addend: Addend, rows: int, meanwhile: Callable[[], None] | None) -> Tensor:
        """Rows of others first, each into a slot of its owner; own rows while they are read."""
        shape, dtype = (rows, addend.shape[1]), addend.dtype
        slot = rows * shape[1] * dtype.itemsize
        turn = self._workspace.begin(slot * self.size)
        for owner in self._others:
            part = slice(owner * rows, (owner + 1) * rows)
            addend.write(part, turn.view(owner, shape, dtype, offset=self.rank * slot))
            turn.memory.publish(turn.epoch, owner)
        mine = torch.empty(shape, dtype=dtype)
        addend.write(slice(self.rank * rows, (self.rank + 1) * rows), mine)
        if meanwhile is not None:
            meanwhile()
        meeting = self._meet("reduce_scatter", slot * (self.size - 1))
        with meeting:
            for writer in self._others:
                turn.memory.wait(writer, turn.epoch, channel=self.rank, where="reduce_scatter")
        meeting.record()
        slots = [turn.view(self.rank, shape, dtype, offset=r * slot) for r in range(self.size)]
        slots[self.rank] = mine
        return _sum(slots)

    def all_reduce(self, addend: Addend) -> Tensor:
        m, n = addend.shape
        sizes = Sizes.of("all_reduce", m, n, addend.depth, addend.dtype)
        large = self.size > _WHOLE_SUM_RANKS and m // self.size >= _SCATTERED_ROWS
        if m % self.size == 0 and self._in_parts_pays(sizes, large):
            return self._gather(self.reduce_scatter(addend), "all_gather").whole().clone()
        return _sum(self._await_whole(self._write_whole(addend), addend, "all_reduce"))

    def _write_whole(self, addend: Addend) -> Turn[PeerMemory]:
        m, n = addend.shape
        turn = self._workspace.begin(m * n * addend.dtype.itemsize)
        addend.write(slice(0, m), turn.view(self.rank, addend.shape, addend.dtype))
        turn.memory.publish(turn.epoch)
        return turn

    def _await_whole(self, turn: Turn[PeerMemory], addend: Addend, where: str) -> list[Tensor]:
        m, n = addend.shape
        meeting = self._meet(where, m * n * addend.dtype.itemsize)
        with meeting:
            for other in self._others:
                turn.memory.wait(other, turn.epoch, where=where)
        meeting.record()
        return [turn.view(rank, addend.shape, addend.dtype) for rank in range(self.size)]

    def check(self) -> None:
        """Who lost a peer has been told."""

    def close(self) -> None:
        self._workspace.close()


class SharedGathering:
    """:class:`~engine.overlap.transport.Gathering`; rows are multiplied where they lie."""

    def __init__(
        self, turn: Turn[PeerMemory], whole: Tensor, others: Sequence[int], meeting: Meeting
    ) -> None:
        self._turn = turn
        self._whole = whole
        self._missing = list(others)
        self._meeting = meeting

    def part(self, rank: int, rows: slice) -> Tensor:
        """The rows of one rank."""
        if rank in self._missing:
            with self._meeting:
                self._turn.memory.wait(rank, self._turn.epoch, where=self._meeting.name)
            self._missing.remove(rank)
            if not self._missing:
                self._meeting.record()
        return self._whole[rows]

    def whole(self) -> Tensor:
        for rank in tuple(self._missing):
            self.part(rank, slice(0, 0))
        return self._whole


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """In the order given; half-precision terms in float32."""
    first, second, *more = terms
    if not more or first.dtype == torch.float32:
        total = torch.add(first, second)
        for term in more:
            total += term
        return total
    wide = first.float()
    for term in terms[1:]:
        wide += term
    return wide.to(first.dtype)
