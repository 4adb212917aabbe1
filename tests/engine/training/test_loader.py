"""Every window of the corpus is read exactly once an epoch, whatever the ranks and the resumes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.errors import UsageError
from engine.training.loader import BatchLoader

SEQ_LEN = 4


def loader(
    n_tokens: int, batch_size: int, *, seed: int = 0, dp_rank: int = 0, dp_size: int = 1
) -> BatchLoader:
    tokens = np.arange(n_tokens, dtype=np.uint16)
    return BatchLoader(
        tokens,
        seq_len=SEQ_LEN,
        batch_size=batch_size,
        seed=seed,
        dp_rank=dp_rank,
        dp_size=dp_size,
    )


@given(
    windows=st.integers(4, 60), batch_size=st.sampled_from([1, 2, 4]), seed=st.integers(0, 1 << 40)
)
def test_an_epoch_reads_every_window_once(windows: int, batch_size: int, seed: int) -> None:
    whole = loader(windows * SEQ_LEN + 1, batch_size, seed=seed)
    epochs = 3
    steps = -(-epochs * windows // batch_size)
    read = [sample for step in range(steps) for sample in whole.samples(step * batch_size)]
    for epoch in range(epochs):
        assert sorted(read[epoch * windows : (epoch + 1) * windows]) == list(range(windows))


@given(first=st.integers(0, 4000), dp_size=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
def test_ranks_share_a_batch_and_need_no_history(first: int, dp_size: int, seed: int) -> None:
    alone = loader(200, 8, seed=seed).batch(1, first).tokens
    parts = [
        loader(200, 8, seed=seed, dp_rank=rank, dp_size=dp_size).batch(1, first).tokens
        for rank in range(dp_size)
    ]
    assert np.array_equal(np.concatenate(parts), alone)
    walked = loader(200, 8, seed=seed)
    for earlier in range(max(0, first - 480), first, 8):
        walked.batch(1, earlier)
    assert np.array_equal(walked.batch(1, first).tokens, alone)


@given(
    windows=st.integers(8, 60),
    sizes=st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=40),
    seed=st.integers(0, 99),
)
def test_batches_may_change_their_size_on_the_way(
    windows: int, sizes: list[int], seed: int
) -> None:
    """As a resumed run's may: still no sample is left out, and none read twice."""
    read: list[int] = []
    for size in sizes:
        read += loader(windows * SEQ_LEN + 1, size, seed=seed).samples(len(read))
    for first in range(0, len(read), windows):
        epoch = read[first : first + windows]
        assert len(set(epoch)) == len(epoch)


def test_targets_are_the_next_tokens() -> None:
    batch = loader(41, 2).batch(1, 0)
    assert batch.tokens.shape == batch.targets.shape == (2, SEQ_LEN)
    assert np.array_equal(batch.targets, batch.tokens + 1)


def test_less_than_a_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="fewer than one batch of 8"):
        loader(8 * SEQ_LEN, 8)
    loader(8 * SEQ_LEN + 1, 8)
