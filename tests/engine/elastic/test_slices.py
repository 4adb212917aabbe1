"""A slice of a prompt is the longest that keeps its time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.elastic.slices import tokens_within
from engine.profiles.latency import latency_of

TERM = st.sampled_from((0.0, 0.1, 1.0))


@given(token=TERM, square=TERM, context=TERM, seconds=st.floats(0, 2), cached=st.integers(0, 10**6))
def test_one_token_more_would_take_longer(
    token: float, square: float, context: float, seconds: float, cached: int
) -> None:
    latency = latency_of((0.01, 1e-5 + 1e-4 * token, 1e-9 * square), (0.01, 1e-7 * context, 0.0))
    tokens = tokens_within(latency, seconds, cached)
    assert not tokens or latency.added_s(tokens, cached) <= seconds * (1 + 1e-6)
    assert latency.added_s(tokens + 1, cached) > seconds * (1 - 1e-6)
