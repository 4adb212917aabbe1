"""Batches in memory that a host's loader fills and its ranks read.

The memory has no name; whoever is told the path of its maker's descriptor maps it. It consists of
slots, each with the number of the step whose batch it holds, for each reader the last step that it
has taken from the slot, the samples' ids, and their tokens:

    steps int64 [1 + readers] | ids int64 [batch] | tokens int32 [batch, seq_len + 1]

The loader fills a slot when all readers have taken what was in it. Both sides write a number after
what it speaks of: this needs stores that are seen in their order (x86-64).
"""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from collectors.errors import RunFailed
from engine.training.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_EMPTY, _FAILED = -1, -2
_FIRST_NAP_S, _LONGEST_NAP_S = 20e-6, 2e-3


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The shape of the memory.

    Attributes:
        count: batches that are ready at once.
        readers: ranks of the host.
        rows: sequences of the host's ranks in a step; ``seq_len``: of tokens in each.
    """

    count: int
    readers: int
    rows: int
    seq_len: int

    @property
    def nbytes(self) -> int:
        """Of all slots."""
        return self.count * self._slot_bytes

    @property
    def _slot_bytes(self) -> int:
        numbers = 8 * (1 + self.readers + self.rows)
        return -(-(numbers + 4 * self.rows * (self.seq_len + 1)) // 64) * 64

    def parts(self, memory: mmap.mmap, step: int) -> _Slot:
        """Of the slot that holds the batch of ``step``."""
        start = step % self.count * self._slot_bytes
        steps = np.frombuffer(memory, np.int64, 1 + self.readers, start)
        ids = np.frombuffer(memory, np.int64, self.rows, start + steps.nbytes)
        shape = (self.rows, self.seq_len + 1)
        tokens = np.frombuffer(
            memory, np.int32, shape[0] * shape[1], start + steps.nbytes + ids.nbytes
        )
        return _Slot(steps[:1], steps[1:], ids, tokens.reshape(shape))


@dataclass(frozen=True)
class _Slot:
    ready: NDArray[np.int64]
    taken: NDArray[np.int64]
    ids: NDArray[np.int64]
    tokens: NDArray[np.int32]


def create_memory(slots: Slots) -> int:
    """Memory for ``slots``, all empty; gives its descriptor, with which it ends."""
    descriptor = os.memfd_create("opsuite-batches")
    os.ftruncate(descriptor, slots.nbytes)
    with mmap.mmap(descriptor, slots.nbytes) as memory:
        for step in range(slots.count):
            slot = slots.parts(memory, step)
            slot.ready[:] = _EMPTY
            slot.taken[:] = _EMPTY
            del slot
    return descriptor


class Publisher:
    """The loader's side."""

    def __init__(self, descriptor: int, slots: Slots, first_step: int) -> None:
        self._memory = mmap.mmap(descriptor, slots.nbytes)
        self._slots = slots
        self._first_step = first_step

    def publish(self, step: int, batch: NDArray[np.int32], ids: NDArray[np.int64]) -> None:
        """Wait until the slot is free, and fill it."""
        slot = self._slots.parts(self._memory, step)
        before = step - self._slots.count
        if before >= self._first_step:
            _await(lambda: bool((slot.taken >= before).all()))
        slot.tokens[:] = batch
        slot.ids[:] = ids
        slot.ready[0] = step

    def fail(self) -> None:
        """Tell the readers that no more will come."""
        for step in range(self._slots.count):
            self._slots.parts(self._memory, step).ready[0] = _FAILED


class SharedBatches:
    """A rank's side; see :class:`~engine.training.batch.Batches`.

    Args:
        path: of the memory.
        reader: this rank's number on its host.
        share: the rows of a batch that it learns from.
    """

    def __init__(self, path: str, slots: Slots, *, reader: int, share: slice) -> None:
        descriptor = os.open(path, os.O_RDWR)
        try:
            self._memory = mmap.mmap(descriptor, slots.nbytes)
        finally:
            os.close(descriptor)
        self._slots = slots
        self._reader = reader
        self._share = share

    def batch(self, step: int, first: int) -> Batch:
        """Wait for the batch of ``step``, and take this rank's part.

        Raises:
            RunFailed: the loader has failed, or died.
        """
        slot = self._slots.parts(self._memory, step)
        _await(lambda: slot.ready[0] in (step, _FAILED))
        if slot.ready[0] == _FAILED:
            raise _gone()
        window = slot.tokens[self._share].astype(np.int64)
        ids = slot.ids[self._share].tolist()
        slot.taken[self._reader] = step
        return Batch(tokens=window[:, :-1], targets=window[:, 1:], samples=ids)


def _gone() -> RunFailed:
    return RunFailed(
        "the host's data loader has ended before the run",
        where="logs/loader.log",
        remedy="read there why",
    )


def _await(come: Callable[[], bool]) -> None:
    """Look again and again, less and less often."""
    nap = _FIRST_NAP_S
    while not come():
        time.sleep(nap)
        nap = min(2 * nap, _LONGEST_NAP_S)
