"""What a rank learns from in a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A rank's part of a step's samples.

    Attributes:
        tokens: int64 [B, S].
        targets: the tokens that follow each, int64 [B, S].
        samples: ids of the samples, their numbers in the corpus.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    samples: list[int]


class Batches(Protocol):
    """Where batches come from."""

    def batch(self, step: int, first: int) -> Batch:
        """This rank's part of the batch of ``step``.

        Args:
            first: samples that all ranks together have read before it.
        """
        ...
