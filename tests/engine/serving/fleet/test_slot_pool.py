"""Slots of one instance: each has one owner, and neighbours stay together."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.serving.fleet.slot_pool import SlotPool, Stretch

ACTIONS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 40), st.integers(0, 30), st.booleans()),
    max_size=60,
)


@given(ACTIONS)
@settings(max_examples=200, deadline=None)
def test_no_slot_is_given_twice_and_none_is_lost(actions: list[tuple[int, int, int, bool]]) -> None:
    pool, held = SlotPool(100), dict[int, list[Stretch]]()
    for owner, tokens, expected, frees in actions:
        if frees:
            pool.give(held.pop(owner, []))
            pool.forget(owner)
        elif tokens <= pool.free:
            held.setdefault(owner, []).extend(pool.take(owner, tokens, expected=expected))
        slots = [slot for some in held.values() for each in some for slot in range(*_ends(each))]
        assert len(slots) == len(set(slots))
        assert all(0 <= slot < 100 for slot in slots)
        assert pool.free == 100 - len(slots)
    for owner, some in held.items():
        pool.give(some)
        pool.forget(owner)
    assert pool.take(9, 100) == [Stretch(0, 100)]


def test_what_is_expected_lies_behind_as_long_as_others_have_room_elsewhere() -> None:
    pool = SlotPool(100)
    (first,) = pool.take(1, 10, expected=20)
    (second,) = pool.take(2, 10, expected=20)
    assert pool.take(1, 1) == [Stretch(first.stop, 1)]
    assert pool.take(2, 1) == [Stretch(second.stop, 1)]
    assert pool.free == 78
    assert sum(each.tokens for each in pool.take(3, 78)) == 78  # nothing is kept in earnest
    assert pool.free == 0


def _ends(stretch: Stretch) -> tuple[int, int]:
    return stretch.start, stretch.stop
