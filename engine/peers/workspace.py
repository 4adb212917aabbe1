"""The peer memory of a group's operators, lent to one of them after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor

    from engine.peers.memory import PeerMemory

TURNS = 4
_LEAST = 1 << 20


@dataclass(frozen=True, slots=True)
class Turn:
    """A part of every rank's buffer, for one operation.

    A rank that begins turn t overwrites what belonged to turn t - 4. By then every rank has done
    with that: at most two turns are open at once, so t - 2 has ended here; it waited for every
    peer's publishing of t - 2, which a peer does when it has ended t - 4. (With three parts, a turn
    begun while another is open overwrote what a late peer still read.)
    """

    memory: PeerMemory
    epoch: int
    offset: int

    def view(
        self, rank: int, shape: Sequence[int], dtype: torch.dtype, *, offset: int = 0
    ) -> Tensor:
        """A tensor in the part of the buffer of ``rank``."""
        return self.memory.view(rank, self.offset + offset, shape, dtype)

    def publish(self, channel: int = 0) -> None:
        """Say that this rank has written all that it has to write (for ``channel``)."""
        self.memory.publish(self.epoch, channel)

    def wait(self, rank: int, *, channel: int = 0, where: str = "") -> None:
        """Until ``rank`` has published this turn."""
        self.memory.wait(rank, self.epoch, channel=channel, where=where)


class Workspace:
    """Peer memory that grows with what its operators need.

    Every rank begins the same turns in the same order, with the same sizes.

    Args:
        open_memory: makes memory of so many bytes a rank; called by all ranks together. What it
            raises at first comes out of this constructor.
    """

    def __init__(self, open_memory: Callable[[int], PeerMemory]) -> None:
        self._open = open_memory
        self._epoch = 0
        self._part = _LEAST
        self._memory = open_memory(TURNS * _LEAST)

    def begin(self, nbytes: int) -> Turn:
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
