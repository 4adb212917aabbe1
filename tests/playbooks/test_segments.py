"""Segments: exact against brute force, and noise that counts drifts."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from playbooks.segments import Segment, block_noise, maximal_segments, outside


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
def test_best_segment_is_found_and_segments_neither_touch_nor_overlap(scores: list[int]) -> None:
    array = np.array(scores, dtype=np.float64)
    segments = maximal_segments(array)
    best = max(
        (sum(scores[i:j]) for i in range(len(scores)) for j in range(i + 1, len(scores) + 1)),
        default=0,
    )
    assert max((array[s.slice].sum() for s in segments), default=0) == max(best, 0)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(segments))
    assert all(scores[s.start] > 0 and scores[s.stop - 1] > 0 for s in segments)


def test_every_positive_score_lies_in_a_segment() -> None:
    scores = np.array([1.0, -3.0, 2.0, -1.0, 2.0, -9.0, 1.0])
    assert maximal_segments(scores) == [Segment(0, 1), Segment(2, 5), Segment(6, 7)]


def test_slow_drift_raises_the_noise_of_long_blocks_and_white_noise_lowers_it() -> None:
    rng = np.random.default_rng(0)
    white = rng.normal(0, 0.1, 400)
    drift = white + 0.2 * np.sin(np.arange(400) / 30)
    assert block_noise(white, 25) < 0.05 < block_noise(drift, 25)


def test_outside_leaves_out_the_segments() -> None:
    assert outside(5, [Segment(1, 3)]).tolist() == [True, False, False, True, True]
