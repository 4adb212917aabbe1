"""Offset, drift and error bound of one clock against another, where the truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.clocks.alignment import Constraints, Offset, align, thin
from collectors.clocks.lines import lower_hull

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Times = NDArray[np.int64]

S = 10**9
NOW = 1_750_000_000 * S


@dataclass(frozen=True, kw_only=True)
class Skewed:
    """B's clock: what A's shows, and theta."""

    offset: int
    drift: float = 0.0
    turned_at: int = 0  # from here on the clock is a step away, and drifts otherwise
    step: int = 0
    later_drift: float = 0.0

    def read(self, at: Times) -> Times:
        late = np.maximum(at - self.turned_at, 0) * (at > 0) if self.turned_at else 0 * at
        jump = np.where(at >= self.turned_at, self.step, 0) if self.turned_at else 0 * at
        slow = at - late
        moved = np.rint(slow * self.drift + late * self.later_drift).astype(np.int64)
        read: Times = NOW + self.offset + at + moved + jump
        return read


def meet(rng: np.random.Generator, clock: Skewed, *, count: int, span_s: float) -> Constraints:
    """Collectives of A and B: uneven arrival, and 50-500 us from the last one to each end."""
    a = np.sort(rng.integers(0, int(span_s * S), count))
    b = a + (rng.exponential(1, count) ** 2 * rng.choice([-1, 1], count) * 2e6).astype(np.int64)
    last = np.maximum(a, b)
    a_end, b_end = (last + latency(rng, count) for _ in range(2))
    a, a_end = NOW + a, NOW + a_end
    b, b_end = clock.read(b), clock.read(b_end)
    return Constraints(low_at=b, low=b - a_end, high_at=b_end, high=b_end - a, guess=b_end - a_end)


def latency(rng: np.random.Generator, count: int) -> Times:
    drawn = np.exp(rng.normal(np.log(150e3), 0.6, count))
    return np.clip(drawn, 50e3, 500e3).astype(np.int64)


def errors(offset: Offset, clock: Skewed, span_s: float) -> Times:
    """Distance of the estimate from the truth, all over the time of the run."""
    at = np.linspace(0, span_s * S, 1001).astype(np.int64)
    read = clock.read(at)
    moved = np.rint((read - offset.at_ns) * offset.drift).astype(np.int64)
    wrong: Times = np.abs(read - offset.offset_ns - moved - NOW - at)
    return wrong


@pytest.mark.parametrize("count", [3, 40, 5000])
def test_within_a_millisecond_and_within_the_bound(count: int) -> None:
    """At every time, for offsets of seconds, 50 ppm, and the rank of either host late."""
    for seed in range(25):
        rng = np.random.default_rng([seed, count])
        span_s = float(rng.choice([0.2, 20, 600])) if count > 3 else 0.2
        clock = Skewed(offset=int(rng.uniform(-5, 5) * S), drift=rng.uniform(-5e-5, 5e-5))
        offset = align(meet(rng, clock, count=count, span_s=span_s))
        assert offset is not None
        wrong = errors(offset, clock, span_s)
        first_to_last = wrong[100:-100] if count == 3 else wrong
        assert first_to_last.max() <= min(offset.error_ns, 1_000_000), seed


def test_a_slow_rank_widens_the_bound_and_not_the_error() -> None:
    """A always waits 30 ms for B: one side is hardly bounded, but both leave at once."""
    rng = np.random.default_rng(0)
    clock = Skewed(offset=3 * S, drift=4e-5)
    a = np.arange(500) * S // 10
    b = a + 30_000_000
    a_end, b_end = NOW + b + latency(rng, 500), clock.read(b + latency(rng, 500))
    a, b = NOW + a, clock.read(b)
    late = Constraints(low_at=b, low=b - a_end, high_at=b_end, high=b_end - a, guess=b_end - a_end)
    offset = align(late)
    assert offset is not None
    assert errors(offset, clock, 50).max() < 100_000
    assert 10_000_000 < offset.error_ns < 40_000_000


@pytest.mark.parametrize(
    "clock",
    [
        pytest.param(Skewed(offset=S, turned_at=200 * S, step=2 * S), id="a step"),
        pytest.param(
            Skewed(offset=S, drift=3e-5, turned_at=300 * S, later_drift=-4e-5), id="a new drift"
        ),
    ],
)
def test_where_no_line_fits_the_bound_is_wide_and_true(clock: Skewed) -> None:
    for seed in range(5):
        offset = align(meet(np.random.default_rng(seed), clock, count=3000, span_s=600))
        assert offset is not None
        wrong = errors(offset, clock, 600).max()
        assert 1_000_000 < wrong <= offset.error_ns < 2 * wrong + 50_000_000


def test_requests_and_replies_say_it_in_the_same_way() -> None:
    """NTP's four times: A sends, B receives, B replies, A receives."""
    rng = np.random.default_rng(1)
    clock = Skewed(offset=-2 * S, drift=1e-5)
    sent = np.arange(50) * S
    received = sent + latency(rng, 50)
    back = received + 10_000 + latency(rng, 50)
    b = clock.read(received), clock.read(received + 10_000)
    low, high = b[1] - (NOW + back), b[0] - (NOW + sent)
    offset = align(
        Constraints(low_at=b[1], low=low, high_at=b[0], high=high, guess=(low + high) // 2)
    )
    assert offset is not None
    assert errors(offset, clock, 50).max() <= offset.error_ns < 1_000_000


def test_nothing_in_common_is_unknown() -> None:
    nothing = np.empty(0, dtype=np.int64)
    assert align(Constraints(**dict.fromkeys(Constraints.__dataclass_fields__, nothing))) is None


def test_one_collective_says_little_about_the_drift() -> None:
    clock = Skewed(offset=S, drift=5e-5)
    offset = align(meet(np.random.default_rng(2), clock, count=1, span_s=1))
    assert offset is not None
    assert abs(offset.drift) < 1e-4
    assert abs(offset.offset_ns - S) < 2_000_000


def test_the_few_that_are_kept_say_what_all_say() -> None:
    """Also when they come in parts, thinned in between; and it is quick."""
    clock = Skewed(offset=4 * S, drift=-5e-5)
    all_of_them = meet(np.random.default_rng(3), clock, count=100_000, span_s=3600)
    kept = thin(all_of_them.chosen(np.arange(1000)))
    for part in range(1, 100):
        kept = thin(kept.joined(all_of_them.chosen(np.arange(1000 * part, 1000 * part + 1000))))
    assert len(kept) < 6000
    whole, parts = align(all_of_them), align(kept)
    assert whole is not None
    assert parts is not None
    assert errors(parts, clock, 3600).max() <= parts.error_ns <= 1.01 * whole.error_ns


offsets = st.builds(
    Offset,
    offset_ns=st.integers(-10 * S, 10 * S),
    drift=st.floats(-1e-3, 1e-3),
    at_ns=st.integers(NOW, NOW + 3600 * S),
    error_ns=st.integers(0, S),
)


def _moved(offset: Offset, at: int) -> int:
    return at - offset.offset_ns - round((at - offset.at_ns) * offset.drift)


@given(offsets, offsets, st.integers(NOW, NOW + 3600 * S))
def test_estimates_compose(first: Offset, second: Offset, at: int) -> None:
    """There and back is the same time; two hops are one, and their errors add up."""
    assert abs(_moved(first.inverse(), _moved(first, at)) - at) <= 10
    whole = second.after(first)
    assert abs(_moved(whole, at) - _moved(first, _moved(second, at))) <= 10
    assert whole.error_ns >= first.error_ns
    assert whole.error_ns >= second.error_ns * 0.99


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=1, max_size=30))
def test_the_hull_is_the_hull(points: list[tuple[int, int]]) -> None:
    """All points lie on or above it, and it turns one way."""
    x, y = (np.array(values, dtype=np.int64) for values in zip(*points, strict=True))
    hull = lower_hull(x, y)
    assert (x[hull[0]], x[hull[-1]]) == (x.min(), x.max())
    assert (y >= np.interp(x, x[hull], y[hull]) - 1e-9).all()
    assert (np.diff(np.diff(y[hull]) / np.diff(x[hull])) > 0).all()
