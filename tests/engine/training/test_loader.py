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
    read = [sample for step in range(1, steps + 1) for sample in whole.samples(step)]
    for epoch in range(epochs):
        assert sorted(read[epoch * windows : (epoch + 1) * windows]) == list(range(windows))


@given(step=st.integers(1, 500), dp_size=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
def test_ranks_share_a_batch_and_steps_need_no_history(step: int, dp_size: int, seed: int) -> None:
    alone, _ = loader(200, 8, seed=seed).batch(step)
    parts = [
        loader(200, 8, seed=seed, dp_rank=rank, dp_size=dp_size).batch(step)[0]
        for rank in range(dp_size)
    ]
    assert np.array_equal(np.concatenate(parts), alone)
    walked = loader(200, 8, seed=seed)
    for earlier in range(max(1, step - 60), step):
        walked.batch(earlier)
    assert np.array_equal(walked.batch(step)[0], alone)


def test_targets_are_the_next_tokens() -> None:
    tokens, targets = loader(41, 2).batch(1)
    assert tokens.shape == targets.shape == (2, SEQ_LEN)
    assert np.array_equal(targets, tokens + 1)


def test_less_than_a_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="fewer than one batch of 8"):
        loader(8 * SEQ_LEN, 8)
    loader(8 * SEQ_LEN + 1, 8)
