"""Batches through memory that processes share: what is read is what was filled in, in time."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from collectors.errors import RunFailed
from engine.training.shared_batches import Publisher, SharedBatches, Slots, create_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")

SLOTS = Slots(count=3, readers=2, rows=4, seq_len=5)
FIRST, LAST = 7, 40


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = create_memory(SLOTS)
    yield descriptor
    os.close(descriptor)


def reader(memory: int, rank: int) -> SharedBatches:
    share = slice(2 * rank, 2 * rank + 2)
    return SharedBatches(f"/proc/self/fd/{memory}", SLOTS, reader=rank, share=share)


def test_each_reader_gets_its_rows_of_every_step(memory: int) -> None:
    publisher = Publisher(memory, SLOTS, FIRST)
    ahead: list[int] = []

    def fill() -> None:
        for step in range(FIRST, LAST):
            rows = np.arange(4)[:, None] * 100 + np.arange(6) + 1000 * step
            publisher.publish(step, rows.astype(np.int32), np.arange(4) + 10 * step)
            ahead.append(step)

    filling = threading.Thread(target=fill)
    filling.start()
    readers = [reader(memory, rank) for rank in range(2)]
    for step in range(FIRST, LAST):
        for rank, each in enumerate(readers):
            batch = each.batch(step, 0)
            assert batch.samples == [10 * step + 2 * rank, 10 * step + 2 * rank + 1]
            expected = 1000 * step + 200 * rank + np.arange(5)
            assert np.array_equal(batch.tokens[0], expected)
            assert np.array_equal(batch.targets, batch.tokens + 1)
        assert not ahead or ahead[-1] <= step + SLOTS.count  # a slot is not overwritten too early
    filling.join()


def test_a_loader_that_has_failed_is_no_reason_to_wait(memory: int) -> None:
    Publisher(memory, SLOTS, FIRST).fail()
    with pytest.raises(RunFailed, match="data loader has ended"):
        reader(memory, 0).batch(FIRST, 0)
