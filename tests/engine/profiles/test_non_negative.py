"""Least squares with no coefficient below 0: what is found is the best there is."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.profiles.non_negative import non_negative


@given(seed=st.integers(0, 10**6), count=st.integers(1, 5), scale=st.sampled_from((1.0, 1e9)))
def test_no_small_step_brings_the_columns_closer(seed: int, count: int, scale: float) -> None:
    """The conditions of Karush, Kuhn and Tucker, which a convex problem's minimum alone meets."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(8, count))
    columns[:, 0] *= scale
    wanted = rng.normal(size=8)
    found = non_negative(columns, wanted)
    assert (found >= 0).all()
    slope = columns.T @ (columns @ found - wanted) / np.abs(columns).max(axis=0)
    assert (slope >= -1e-8).all()
    assert np.abs(slope[found > 0]).max(initial=0.0) < 1e-8


def test_a_column_of_nothing_has_no_part() -> None:
    found = non_negative(np.array([[0.0, 1.0], [0.0, 2.0]]), np.array([2.0, 4.0]))
    assert found.tolist() == [0.0, 2.0]
