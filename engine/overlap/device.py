"""Operators between accelerators that reach each other's memory: one kernel for each product.

Shards travel by the copy engine, on a stream beside the product's, and are announced by signals
that the product's tiles await; a product's tiles are stored with the owners of their rows (Flux,
arXiv 2406.06858, section 4). Everything is in the order of streams: the host waits for nobody.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from engine.overlap.addend import Product
from engine.overlap.choices import Choice, Choices, Sizes
from engine.overlap.kernels.launching import (
    Place,
    add_terms,
    gathered_rows_product,
    hold_stream,
    product,
    product_to_owners,
    split_rows,
)
from engine.overlap.kernels.tile_shape import MAX_SPLITS, CommunicationShape
from engine.overlap.precision import FP8

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from engine.groups.group import Meeting
    from engine.overlap.transport import Addend
    from engine.peers.device import DevicePeerMemory
    from engine.peers.watch import PeerWatch
    from engine.peers.workspace import Turn, Workspace

MAX_RANKS = 32
# Where signals lie: those of shards first, MAX_SPLITS for each rank.
_READY = MAX_RANKS * MAX_SPLITS  # a rank's shard can be fetched
_SCATTERED = _READY + MAX_RANKS  # a rank has stored all of its terms here
_REDUCED = _SCATTERED + MAX_RANKS  # a rank's term can be read
_LEAST_SCATTERED = 1 << 20  # bytes; unless tuned, smaller sums are made whole by every rank


def latest_epochs(signals: Sequence[int], size: int) -> list[int]:
    """The latest epoch that each rank of a group of ``size`` has given, from a rank's signals."""
    return [
        max(
            *signals[MAX_SPLITS * rank : MAX_SPLITS * (rank + 1)],
            *(signals[first + rank] for first in (_READY, _SCATTERED, _REDUCED)),
        )
        for rank in range(size)
    ]


class DeviceTransport:
    """:class:`~engine.overlap.transport.Transport` through the memory of devices.

    Args:
        meet: records an operation of this name, with so many bytes of this rank's. The host does
            not see when ranks come, so only that it was issued is recorded.
        watch: looks after the other ranks; closed with this.

    Attributes:
        choices: what is known to be fastest; the same on all ranks.
    """

    def __init__(
        self,
        workspace: Workspace[DevicePeerMemory],
        *,
        rank: int,
        size: int,
        device: torch.device,
        meet: Callable[[str, int], Meeting],
        watch: PeerWatch,
        choices: Choices | None = None,
    ) -> None:
        assert size <= MAX_RANKS
        self.rank = rank
        self.size = size
        self._place = Place(rank=rank, size=size)
        self._workspace = workspace
        self._meet = meet
        self._watch = watch
        self.choices = choices or Choices()
        self._done = torch.zeros(size, dtype=torch.int32, device=device)
        self._copies: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    @contextmanager
    def _operation(self, name: str, nbytes: int, carried: int) -> Iterator[Turn[DevicePeerMemory]]:
        """A turn with ``nbytes``, of which so many are ``carried``, watched over."""
        self._watch.check()
        turn = self._workspace.begin(nbytes)
        with self._watch.following(turn.memory, epoch=turn.epoch, where=name):
            meeting = self._meet(name, carried)
            with meeting:
                pass
            meeting.record()
            yield turn

    def gather(self, shard: Tensor) -> DeviceGathering:
        with self._operation("all_gather", shard.nbytes * self.size, shard.nbytes) as turn:
            return self._gather(turn, shard, CommunicationShape())

    def _gather(
        self, turn: Turn[DevicePeerMemory], shard: Tensor, shape: CommunicationShape
    ) -> DeviceGathering:
        rows, width = shard.shape
        whole = turn.view(self.rank, (rows * self.size, width), shard.dtype)
        whole[self.rank * rows : (self.rank + 1) * rows].copy_(shard)
        if shape.direction == "pull":
            self._await_ready(turn)
        with self._beside():
            carry = self._push if shape.direction == "push" else self._pull
            carry(turn, whole, shape.splits)
        return DeviceGathering(
            turn, whole, place=self._place, splits=shape.splits, watch=self._watch
        )

    def _push(self, turn: Turn[DevicePeerMemory], whole: Tensor, splits: int) -> None:
        """To who wants it first, first."""
        for step in range(1, self.size):
            peer = (self.rank - step) % self.size
            theirs = turn.view(peer, whole.shape, whole.dtype)
            for split, part in self._parts_of(self.rank, whole, splits):
                theirs[part].copy_(whole[part], non_blocking=True)
                turn.memory.write_signal(peer, MAX_SPLITS * self.rank + split, turn.epoch)

    def _pull(self, turn: Turn[DevicePeerMemory], whole: Tensor, splits: int) -> None:
        """In the order in which the product wants them."""
        for peer in self._others():
            theirs = turn.view(peer, whole.shape, whole.dtype)
            for split, part in self._parts_of(peer, whole, splits):
                whole[part].copy_(theirs[part], non_blocking=True)
                turn.memory.write_signal(self.rank, MAX_SPLITS * peer + split, turn.epoch)

    def _await_ready(self, turn: Turn[DevicePeerMemory]) -> None:
        """Before the product, not beside it: its waiting tiles could keep these kernels out."""
        signals = turn.memory.signals(self.rank)
        for peer in self._others():
            turn.memory.write_signal(peer, _READY + self.rank, turn.epoch)
        for peer in self._others():
            hold_stream(signals[_READY + peer :], epoch=turn.epoch, count=1)

    def _others(self) -> list[int]:
        return [(self.rank + step) % self.size for step in range(1, self.size)]

    def _parts_of(self, rank: int, whole: Tensor, splits: int) -> list[tuple[int, slice]]:
        """The splits of a rank's shard, and their rows of the whole."""
        rows = whole.shape[0] // self.size
        height = split_rows(rows, splits)
        return [
            (split, slice(rank * rows + begin, rank * rows + min(begin + height, rows)))
            for split, begin in enumerate(range(0, rows, height))
        ]

    def _beside(self) -> AbstractContextManager[object]:
        """The stream of the copies, which goes on from where the current one is."""
        if self._copies is None:
            return nullcontext()
        self._copies.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._copies)

    def all_gather_matmul(
        self, shard: Tensor, weights: Sequence[Tensor]
    ) -> tuple[list[Tensor], DeviceGathering]:
        m, k = shard.shape[0] * self.size, shard.shape[1]
        n = sum(weight.shape[0] for weight in weights)
        choice = self.choices.of(Sizes.of("all_gather_matmul", m, n, k, shard.dtype)) or Choice()
        shape = choice.communication or CommunicationShape()
        carried = shard.nbytes
        with self._operation("all_gather_matmul", carried * self.size, carried) as turn:
            gathering = self._gather(turn, shard, shape)
            products = [
                gathered_rows_product(
                    gathering.rows,
                    weight,
                    gathering.signals,
                    epoch=gathering.epoch,
                    splits=shape.splits,
                    place=self._place,
                    shape=choice.tile,
                )
                for weight in weights
            ]
        gathering.came = True
        return products, gathering

    def reduce_scatter(self, addend: Addend, meanwhile: Callable[[], None] | None = None) -> Tensor:
        m, n = addend.shape
        rows = m // self.size
        slot = rows * n * addend.dtype.itemsize
        carried = slot * (self.size - 1)
        with self._operation("reduce_scatter", slot * self.size, carried) as turn:
            scatter = self._scatter_product if isinstance(addend, Product) else self._scatter_copies
            scatter(addend, turn, slot)  # type: ignore[arg-type]  # as just looked at
            if meanwhile is not None:
                meanwhile()
            mine = turn.memory.addresses(turn.offset)[self.rank]
            terms = mine + slot * torch.arange(self.size, device=addend.device)
            return self._add(terms, (rows, n), addend, turn, _SCATTERED)

    def _scatter_product(self, addend: Product, turn: Turn[DevicePeerMemory], slot: int) -> None:
        """A sum of products is one product of matrices side by side."""
        a, b = _side_by_side(addend)
        sizes = Sizes.of("reduce_scatter", *addend.shape, addend.depth, addend.operands)
        choice = self.choices.of(sizes) or Choice()
        product_to_owners(
            a,
            b.t(),
            slots=turn.memory.addresses(turn.offset + self.rank * slot),
            signals=turn.memory.signal_addresses(),
            done=self._done,
            epoch=turn.epoch,
            place=self._place,
            signal_index=_SCATTERED + self.rank,
            shape=choice.tile,
        )

    def _scatter_copies(self, addend: Addend, turn: Turn[DevicePeerMemory], slot: int) -> None:
        m, n = addend.shape
        rows = m // self.size
        for owner in (*self._others(), self.rank):
            theirs = turn.view(owner, (rows, n), addend.dtype, offset=self.rank * slot)
            addend.write(slice(owner * rows, (owner + 1) * rows), theirs)
            turn.memory.write_signal(owner, _SCATTERED + self.rank, turn.epoch)

    def all_reduce(self, addend: Addend) -> Tensor:
        m, n = addend.shape
        nbytes = m * n * addend.dtype.itemsize
        depth = addend.depth
        choice = self.choices.of(Sizes.of("all_reduce", m, n, depth, addend.dtype)) or Choice()
        in_parts = nbytes >= _LEAST_SCATTERED if choice.in_parts is None else choice.in_parts
        if m % self.size == 0 and in_parts:
            return self.gather(self.reduce_scatter(addend)).whole().clone()
        with self._operation("all_reduce", nbytes, nbytes) as turn:
            self._write(addend, turn.view(self.rank, (m, n), addend.dtype))
            for peer in self._others():
                turn.memory.write_signal(peer, _REDUCED + self.rank, turn.epoch)
            return self._add(turn.memory.addresses(turn.offset), (m, n), addend, turn, _REDUCED)

    def _write(self, addend: Addend, out: Tensor) -> None:
        """All of it; torch multiplies fp8 only where scales come with it."""
        if isinstance(addend, Product) and addend.operands == FP8:
            a, b = _side_by_side(addend)
            out.copy_(product(a, b.t()))
        else:
            addend.write(slice(0, addend.shape[0]), out)

    def _add(
        self,
        terms: Tensor,
        shape: tuple[int, int],
        addend: Addend,
        turn: Turn[DevicePeerMemory],
        first_signal: int,
    ) -> Tensor:
        out = torch.empty(shape, dtype=addend.dtype, device=addend.device)
        signals = turn.memory.signals(self.rank)[first_signal:]
        return add_terms(terms, out, signals, epoch=turn.epoch, place=self._place)

    def check(self) -> None:
        if self._copies is not None:
            torch.cuda.current_stream().synchronize()
        self._watch.check()

    def close(self) -> None:
        self._watch.close()
        self._workspace.close()


def _side_by_side(product: Product) -> tuple[Tensor, Tensor]:
    if len(product.factors) == 1:
        [(a, b)] = product.factors
        return a.contiguous(), b
    left, right = zip(*product.factors, strict=True)
    return torch.cat(left, dim=1), torch.cat(right, dim=0)


class DeviceGathering:
    """:class:`~engine.overlap.transport.Gathering` into this rank's memory.

    Attributes:
        rows: [M, K], which come as the signals say.
        came: whether the current stream has waited for all of them.
    """

    def __init__(
        self,
        turn: Turn[DevicePeerMemory],
        rows: Tensor,
        *,
        place: Place,
        splits: int,
        watch: PeerWatch,
    ) -> None:
        self.rows = rows
        self.epoch = turn.epoch
        self.signals = turn.memory.signals(place.rank)
        self.came = False
        self._memory = turn.memory
        self._watch = watch
        self._place = place
        rows_of_each = rows.shape[0] // place.size
        self._signals_of_each = -(-rows_of_each // split_rows(rows_of_each, splits))

    def whole(self) -> Tensor:
        if not self.came:
            with self._watch.following(self._memory, epoch=self.epoch, where="all_gather"):
                self._hold()
            self.came = True
        return self.rows

    def _hold(self) -> None:
        for rank in range(self._place.size):
            if rank != self._place.rank:
                signals = self.signals[MAX_SPLITS * rank :]
                hold_stream(signals, epoch=self.epoch, count=self._signals_of_each)
