"""What peer memory is, however it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from collectors.errors import RunFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

CHANNELS = 64
"""Signals of each rank; a rank may publish on each of them by itself."""
ALIGNMENT = 256
"""Of offsets, in bytes: what vectorised loads and the caches of any device want at most."""


class PeerLost(RunFailed):
    """A rank did not come to an operation, or has ended in the middle of it."""

    def __init__(self, rank: int, *, why: str, where: str) -> None:
        super().__init__(
            f"rank {rank} {why}",
            where=where,
            remedy="look at that rank's log first: the errors of the others follow from it",
        )
        self.rank = rank


class PeerMemory(Protocol):
    """A buffer for each rank of a group, which every rank of it addresses, and signals.

    A signal is an epoch, a number that only grows. What a rank wrote into any buffer before it
    published an epoch is seen by whoever has waited for that epoch.

    Attributes:
        rank: this process's place in the group.
        size: number of ranks.
        nbytes: of the buffer of each rank.
    """

    rank: int
    size: int
    nbytes: int

    def view(self, rank: int, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor in the buffer of ``rank``, ``offset`` bytes from its beginning."""
        ...

    def publish(self, epoch: int, channel: int = 0) -> None:
        """Say that all of ``epoch`` is written."""
        ...

    def wait(self, rank: int, epoch: int, *, channel: int = 0, where: str = "") -> None:
        """Until ``rank`` has published ``epoch``, or a later one.

        Args:
            where: the operation, for the error.

        Raises:
            PeerLost: it has ended, or did not come in time.
        """
        ...

    def close(self) -> None:
        """Give it back; views of it must not be used any more."""
        ...
