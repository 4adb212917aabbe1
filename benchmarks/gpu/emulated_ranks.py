"""A group of which only rank 0 is there: all others are buffers in pinned host memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.overlap.choices import Choice, Choices, Sizes
from engine.overlap.device import MAX_RANKS, DeviceTransport, latest_epochs
from engine.overlap.kernels.tile_shape import MAX_SPLITS
from engine.peers.device import POISON
from engine.peers.virtual import VirtualMemory, open_virtual
from engine.peers.watch import PeerWatch
from engine.peers.workspace import TURNS, Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import Tensor

    from benchmarks.gpu.session import Session
    from engine.peers.device import DevicePeerMemory


class Unrecorded:
    """A meeting of which nobody is told."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...
    def record(self) -> None: ...


@dataclass(frozen=True)
class Always(Choices):
    """One choice for every operation."""

    choice: Choice = field(default_factory=Choice)

    def of(self, sizes: Sizes) -> Choice:
        return self.choice


class EmulatedRanks:
    """Rank 0 of a group whose other ranks are buffers: they are ready always, and done already."""

    def __init__(
        self, session: Session, size: int, choice: Choice, *, timeout_s: float = 60.0
    ) -> None:
        self.size = size
        self.memory: VirtualMemory
        self._session = session
        self._workspace: Workspace[DevicePeerMemory] = Workspace(self._open)
        self.transport = DeviceTransport(
            self._workspace,
            rank=0,
            size=size,
            device=session.device,
            meet=lambda _name, _nbytes: Unrecorded(),  # type: ignore[arg-type, return-value]
            watch=PeerWatch(
                ranks=range(size),
                processes={},
                timeout_s=timeout_s,
                latest=lambda signals: latest_epochs(signals, size),
            ),
        )
        self.choose(choice)

    def _open(self, nbytes: int) -> VirtualMemory:
        linked = () if self._session.dry else range(1, self.size)
        self.memory = open_virtual(
            self.size, nbytes=nbytes, device=self._session.device, linked=linked
        )[0]
        self.let_come(POISON)
        return self.memory

    def let_come(self, epoch: int) -> None:
        """All others to that epoch, but for their shards, of which each has its own signal."""
        self.memory.signals(0)[MAX_RANKS * MAX_SPLITS :] = epoch

    def choose(self, choice: Choice) -> None:
        """Of every operation."""
        self.transport.choices = Always(choice=choice)

    def make_room(self, nbytes: int) -> None:
        """So that what is laid down stays: operations take the memory's parts in turn."""
        self._workspace.begin(nbytes)

    def lay(self, rank: int, offset: int, values: Tensor) -> None:
        """Into the buffer of ``rank``, for whichever operation comes next."""
        for part in self._parts(rank, offset, values.shape, values.dtype):
            part.copy_(values)

    def found(self, rank: int, offset: int, like: Tensor) -> Iterator[Tensor]:
        """What lies there, after the operations."""
        yield from self._parts(rank, offset, like.shape, like.dtype)

    def _parts(
        self, rank: int, offset: int, shape: Sequence[int], dtype: torch.dtype
    ) -> Iterator[Tensor]:
        for turn in range(TURNS):
            yield self.memory.view(
                rank, turn * (self.memory.nbytes // TURNS) + offset, shape, dtype
            )

    def close(self) -> None:
        self.transport.close()
