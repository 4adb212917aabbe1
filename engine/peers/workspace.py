"""The peer memory of a group's operators, lent to one of them after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor

TURNS = 4
_LEAST = 1 << 20


class Buffers(Protocol):
    """What hosts' and devices' peer memory have in common."""

    def view(self, rank: int, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor: ...
    def close(self) -> None: ...


MemoryT = TypeVar("MemoryT", bound=Buffers)


@dataclass(frozen=True, slots=True)
class Turn(Generic[MemoryT]):
    """A part of every rank's buffer, for one operation.

    A rank that begins turn t overwrites what belonged to turn t - 4. By then every rank has done
    with that: at most two turns are open at once, so t - 2 has ended here; it waited for every
    peer's signal of t - 2, which a peer gives when it has ended t - 4. (With three parts, a turn
    begun while another is open overwrote what a late peer still read.)

    Attributes:
        epoch: of the turn's signals.
        offset: of its part, in bytes.
    """

    memory: MemoryT
    epoch: int
    offset: int

    def view(
        self, rank: int, shape: Sequence[int], dtype: torch.dtype, *, offset: int = 0
    ) -> Tensor:
        """A tensor in the part of the buffer of ``rank``."""
        return self.memory.view(rank, self.offset + offset, shape, dtype)


class Workspace(Generic[MemoryT]):
    """Peer memory that grows with what its operators need.

    Every rank begins the same turns in the same order, with the same sizes.

    Args:
        open_memory: makes memory of so many bytes a rank; called by all ranks together. What it
            raises at first comes out of this constructor.
    """

    def __init__(self, open_memory: Callable[[int], MemoryT]) -> None:
        self._open = open_memory
        self._epoch = 0
        self._part = _LEAST
        self._memory = open_memory(TURNS * _LEAST)

    def begin(self, nbytes: int) -> Turn[MemoryT]:
        """The next turn, with ``nbytes`` in the buffer of every rank."""
        if nbytes > self._part:
            self._grow(nbytes)
        self._epoch += 1
        return Turn(self._memory, self._epoch, self._epoch % TURNS * self._part)

    def _grow(self, nbytes: int) -> None:
        """The turns that are open keep the old memory, and with the last of them it goes."""
        self._part = 1 << (nbytes - 1).bit_length()
        self._memory = self._open(TURNS * self._part)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
