"""Ranks get cores of their own, or a reason."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.training.affinity import plan_affinity


@given(
    available=st.sets(st.integers(0, 63), max_size=16),
    ranks=st.integers(1, 8),
    threads=st.integers(1, 4),
    pin=st.booleans(),
)
def test_cores_are_ours_and_nobody_elses(
    available: set[int], ranks: int, threads: int, pin: bool
) -> None:
    plan = plan_affinity(sorted(available), ranks=ranks, threads=threads, pin=pin)
    assert bool(plan.cores) == (pin and ranks * threads <= len(available))
    assert bool(plan.cores) != bool(plan.reason)
    given_out = [core for cores in plan.cores for core in cores]
    assert len(set(given_out)) == len(given_out)
    assert set(given_out) <= available
    assert all(len(cores) == threads for cores in plan.cores)


def test_a_system_that_cannot_pin_is_a_reason() -> None:
    assert plan_affinity(None, ranks=1, threads=1, pin=True).reason
