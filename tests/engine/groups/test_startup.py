"""Groups are made in an order in which nobody waits in a circle, by few operations of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.groups.simulated_startup import simulate  # noqa: E402
from engine.groups.startup import AXES, layout_of, own_groups  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = st.tuples(*(st.integers(1, 4) for _ in AXES))


@given(sizes=SIZES)
def test_members_agree_on_their_groups_and_the_order_ends(sizes: tuple[int, int, int]) -> None:
    layout = layout_of(*sizes)
    plans: dict[int, list[tuple[str, list[int]]]] = {
        int(rank): list(own_groups(layout, int(rank))) for rank in layout.flatten()
    }
    for rank, plan in plans.items():
        assert [axis for axis, _ in plan] == list(AXES)
        for axis, members in plan:
            assert rank in members
            assert all((axis, members) in plans[other] for other in members)
    assert all_get_through(plans)


def all_get_through(plans: dict[int, list[tuple[str, list[int]]]]) -> bool:
    """Whether meeting after meeting takes place until nobody waits."""
    left = {rank: list(plan) for rank, plan in plans.items()}

    def ready() -> Iterator[list[int]]:
        for plan in left.values():
            if plan and all(left[other][:1] == plan[:1] for other in plan[0][1]):
                yield plan[0][1]

    while members := next(ready(), None):
        for rank in members:
            left[rank].pop(0)
    return not any(left.values())


@pytest.mark.slow
def test_the_store_is_asked_as_often_by_each_rank_however_many_there_are() -> None:
    few, many = simulate(2, 2, 2), simulate(2, 4, 4)
    assert (few.ranks, many.ranks) == (8, 32)
    assert many.operations / many.ranks <= 1.1 * few.operations / few.ranks
    unordered = simulate(2, 4, 4, ordered=False)
    assert unordered.operations > 4 * many.operations
