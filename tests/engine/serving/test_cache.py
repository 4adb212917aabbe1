"""Rows of the key-value cache: kept together, their content with them, nothing left behind."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.models.config import ModelConfig  # noqa: E402
from engine.serving.cache import KeyValueCache  # noqa: E402

CONFIG = ModelConfig(hidden_size=8, n_layers=1, n_heads=2, n_kv_heads=1)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=25))
def test_requests_keep_their_content_while_others_come_and_go(
    history: list[tuple[int, int]],
) -> None:
    device = torch.device("cpu")
    cache = KeyValueCache(CONFIG, max_batch=4, max_len=6, device=device, dtype=torch.float32)
    held: dict[int, int] = {}
    for number, (victim, length) in enumerate(history, start=1):
        if len(held) == 4:
            gone = sorted(held)[victim]
            cache.release(gone)
            del held[gone]
        cache.allocate(number)
        for storage in (cache.keys[0], cache.values[0]):
            storage[cache.row(number), :, :length] = number
        cache.extend(number, length)
        held[number] = length
        assert sorted(cache.row(n) for n in held) == list(range(len(held)))
        assert cache.tokens == sum(held.values())
        for other, stored in held.items():
            for storage in (cache.keys[0], cache.values[0]):
                row = storage[cache.row(other)]
                assert (row[:, :stored] == other).all()
                assert (row[:, stored:] == 0).all()
    for number in held:
        cache.release(number)
        cache.release(number)  # a second time does no harm
    assert (cache.requests, cache.tokens) == (0, 0)
    assert not cache.keys[0].any()
    assert not cache.values[0].any()
