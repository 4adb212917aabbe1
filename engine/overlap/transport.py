"""What operators need of the way between ranks: shards gathered, partial products reduced.

Rows are tokens. M rows of a whole are split over R ranks in R equal parts, rank r holding the r-th.
Weights lie as torch's linear layers have them, [N, K].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor


class Gathering(Protocol):
    """The shards of all ranks, on their way to this one or here already."""

    def whole(self) -> Tensor:
        """All rows [M, K]; valid until two further operations of the group have begun.

        Raises:
            PeerLost: a rank does not come.
        """
        ...


class Addend(Protocol):
    """This rank's term [M, N] of a sum over ranks, made row by row where it is wanted.

    Attributes:
        shape: (M, N).
        depth: of the product that makes it; 0: it is there already.
        dtype, device: of the sum.
    """

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def depth(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...

    def write(self, rows: slice, out: Tensor) -> None:
        """Make these rows, in ``out``."""
        ...


class Transport(Protocol):
    """The way between the ranks of a group; every rank calls the same in the same order.

    Every method raises :class:`~engine.peers.memory.PeerLost` where a rank does not come.

    Attributes:
        rank: this process's place in the group.
        size: number of ranks.
    """

    rank: int
    size: int

    def gather(self, shard: Tensor) -> Gathering:
        """Give this rank's ``shard`` [M/R, K] to the others, and await theirs only when asked."""
        ...

    def all_gather_matmul(
        self, shard: Tensor, weights: Sequence[Tensor]
    ) -> tuple[list[Tensor], Gathering]:
        """The gathered rows times each weight transposed, [M, N_i]; and these rows."""
        ...

    def reduce_scatter(self, addend: Addend, meanwhile: Callable[[], None] | None = None) -> Tensor:
        """This rank's rows [M/R, N] of the sum over all ranks.

        Terms are added in the order of the ranks, so the result is the same each time.

        Args:
            meanwhile: work of this rank's own, while others finish their parts.
        """
        ...

    def all_reduce(self, addend: Addend) -> Tensor:
        """All rows [M, N] of the sum over all ranks, the same bits on each of them."""
        ...

    def check(self) -> None:
        """Wait until results are there, and see that they are good."""
        ...

    def close(self) -> None:
        """Give back what it holds; nothing may be called any more."""
        ...
