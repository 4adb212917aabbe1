"""A ranking is a dictionary that is sorted by its values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scheduling.ranking import Ranking

changes = st.lists(st.tuples(st.integers(0, 8), st.one_of(st.none(), st.integers(0, 5))))


@settings(deadline=None, max_examples=50)
@given(changes=changes)
def test_it_is_sorted_after_every_change(job: Any, changes: list[tuple[int, int | None]]) -> None:
    """None: the job leaves."""
    jobs = [job(number) for number in range(9)]
    ranking, keys = Ranking(), dict[int, tuple[int, int]]()
    for number, value in changes:
        key = (value or 0, number)
        if value is None and number in keys:
            ranking.remove(jobs[number])
            del keys[number]
        elif value is not None and number in keys:
            ranking.update(jobs[number], key)
            keys[number] = key
        elif value is not None:
            ranking.add(jobs[number], key)
            keys[number] = key
        expected = sorted(keys, key=keys.__getitem__)
        assert [each.number for each in ranking] == expected
        assert [ranking.index(jobs[each]) for each in expected] == list(range(len(expected)))
        assert all(ranking.key(jobs[each]) == keys[each] for each in expected)
        assert len(ranking) == len(keys)


def test_who_is_not_here_has_no_key(job: Any) -> None:
    ranking = Ranking()
    assert job(0) not in ranking
    with pytest.raises(KeyError):
        ranking.key(job(0))
