"""A model that is a witness: keys and values are the tokens themselves, and are read again.

Each pass writes the text that it computes into the blocks of its request and then reads the whole
of it back. A block that two requests write, that a move confused, or that was shared for another
text shows at once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.models.config import ModelConfig
from engine.serving.paged.cache import PagedCache
from engine.serving.paged.moves import MemoryMover
from engine.serving.paged.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from engine.scheduling.iteration import Work
    from engine.scheduling.limits import Limits
    from engine.serving.paged.moves import Move

_SHAPE = ModelConfig(
    vocab_size=258,
    hidden_size=8,
    n_layers=1,
    n_heads=4,
    n_kv_heads=1,
    intermediate_size=8,
    max_seq_len=8192,
)
_PLACES = 8192  # tokens of the longest text, so that a token's number and place are one value


class WitnessError(AssertionError):
    """A request's keys and values are not its own."""


class LateMover:
    """Copies at the last moment: until then, what is moved must stay as it is."""

    def __init__(self, storage: Storage) -> None:
        self._by = MemoryMover(storage)

    def offload(self, blocks: Sequence[int], host: Sequence[int]) -> Move:
        """See :class:`~engine.serving.paged.moves.Mover`."""
        return _Late(partial(self._by.offload, tuple(blocks), tuple(host)))

    def upload(self, host: Sequence[int], blocks: Sequence[int]) -> Move:
        """See :class:`~engine.serving.paged.moves.Mover`."""
        return _Late(partial(self._by.upload, tuple(host), tuple(blocks)))


class _Late:
    def __init__(self, copy: Callable[[], Move]) -> None:
        self._copy = copy

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        self._copy()


class Witness:
    """Computes iterations like :class:`~engine.serving.paged.runner.PagedRunner`."""

    def __init__(self, limits: Limits) -> None:
        storage = Storage(_SHAPE, limits, device=torch.device("cpu"), dtype=torch.float32)
        storage.device_blocks.fill_(float("nan"))
        storage.host_blocks.fill_(float("nan"))
        self.cache = PagedCache(storage, limits, salt=b"witness", mover=LateMover(storage))
        self._written: NDArray[np.float32] = storage.keys[0][0, 0, :, 0].numpy()
        self._tokens = limits.block_tokens

    def compute(self, work: Sequence[Work], texts: Mapping[int, Sequence[int]]) -> None:
        """WitnessError: what is there is another request's."""
        for each in work:
            number, end = each.job.number, each.first + each.tokens
            if number not in self.cache:
                self.cache.begin(number, expected=each.job.prompt_tokens + each.job.max_tokens)
            blocks = np.asarray(self.cache.extend(number, end).blocks)
            place = np.arange(end)
            slots = blocks[place // self._tokens] * self._tokens + place % self._tokens
            own = np.asarray(texts[number][:end], dtype=np.float32) * _PLACES + place
            self._written[slots[each.first :]] = own[each.first :]
            if not np.array_equal(self._written[slots], own):
                wrong = int(np.flatnonzero(self._written[slots] != own)[0])
                raise WitnessError(f"request {number}, token {wrong} of {end} is not its own")
