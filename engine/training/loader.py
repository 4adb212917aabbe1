"""Which tokens each rank reads: a function of how many samples were read before.

So all that a resume needs is that number, whatever the mesh and the batch were before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from collectors.errors import UsageError
from engine.training.batch import Batch

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.training.config import RunConfig
    from engine.training.corpus import Corpus


class BatchLoader:
    """Windows of a token stream in an order that a seed shuffles anew in every epoch; see
    :class:`~engine.training.batch.Batches`.

    A step reads the next ``batch_size`` samples of an endless sequence of epochs; a data-parallel
    rank takes its contiguous share of them. Tensor- and pipeline-parallel peers construct equal
    loaders and so read the same.

    Args:
        tokens: ids [n].
        seq_len: tokens in a sample, of which each predicts the next.
        batch_size: samples in a step, over all data-parallel ranks.
        dp_rank, dp_size: this rank's place along the data-parallel axis.

    Attributes:
        bytes_read: of tokens, so far.

    Raises:
        UsageError: the tokens do not fill one batch.
    """

    def __init__(
        self,
        tokens: npt.NDArray[np.unsignedinteger],
        *,
        seq_len: int,
        batch_size: int,
        seed: int,
        dp_rank: int = 0,
        dp_size: int = 1,
    ) -> None:
        self.n_windows = max(0, len(tokens) - 1) // seq_len
        if self.n_windows < batch_size:
            raise UsageError(
                f"the corpus has {len(tokens)} tokens, fewer than one batch of {batch_size}"
                f" sequences of {seq_len}",
                where="data, train.batch_size and data.seq_len",
                remedy="give more data, or lower train.batch_size or data.seq_len",
            )
        self._tokens = tokens
        self._seq_len = seq_len
        self._batch_size = batch_size
        self._seed = seed
        share = batch_size // dp_size
        self._share = slice(dp_rank * share, (dp_rank + 1) * share)
        self.bytes_read = 0
        self._order: dict[int, npt.NDArray[np.int64]] = {}

    def samples(self, first: int) -> list[int]:
        """The windows that all ranks together read after ``first`` others."""
        places = (divmod(first + i, self.n_windows) for i in range(self._batch_size))
        return [int(self._epoch(epoch)[place]) for epoch, place in places]

    def windows(self, first: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """What all ranks together read: tokens [batch, seq_len + 1] and the samples' ids."""
        return self._read(self.samples(first))

    def batch(self, step: int, first: int) -> Batch:
        """This rank's part of the step's batch."""
        windows, ids = self._read(self.samples(first)[self._share])
        window = windows.astype(np.int64)
        return Batch(tokens=window[:, :-1], targets=window[:, 1:], samples=ids.tolist())

    def _read(self, samples: list[int]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        ids = np.asarray(samples, dtype=np.int64)
        places = (ids * self._seq_len)[:, None] + np.arange(self._seq_len + 1)
        self.bytes_read += places.size * self._tokens.itemsize
        return self._tokens[places].astype(np.int32), ids

    def _epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch not in self._order:
            self._order.pop(epoch - 2, None)
            generator = np.random.default_rng([self._seed, epoch])
            self._order[epoch] = generator.permutation(self.n_windows)
        return self._order[epoch]


def make_loader(config: RunConfig, corpus: Corpus, dp_rank: int = 0) -> BatchLoader:
    """The loader of one data-parallel rank."""
    return BatchLoader(
        corpus.tokens,
        seq_len=config.data.seq_len,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        dp_rank=dp_rank,
        dp_size=config.parallel.dp,
    )
