"""The search for the highest rate: as near as promised, and with few simulations."""

from __future__ import annotations

import math

import pytest

from engine.simulation.fleet.highest_rate import PRECISION, RateSearch


class Queue:
    """Figures that grow without bound towards a capacity; counts what it is asked."""

    def __init__(self, capacity: float) -> None:
        self._capacity = capacity
        self.asked: list[float] = []

    def __call__(self, rate: float) -> dict[str, float]:
        self.asked.append(rate)
        load = rate / self._capacity
        mean = 1 + load / (1 - load) if load < 1 else 100 * load
        return {"mean": mean, "p90": 2 * mean}


@pytest.mark.parametrize("guess", [0.01, 1.0, 2.3, 40.0])
def test_the_rate_is_found_from_any_guess(guess: float) -> None:
    queue = Queue(3.0)
    found = RateSearch(queue).highest("mean", 5, guess)
    assert queue(found)["mean"] <= 5
    assert queue(found * PRECISION)["mean"] > 5
    assert found == pytest.approx(3 * 4 / 5, rel=0.011)
    assert len(queue.asked) <= 20


def test_what_one_objective_found_serves_the_next() -> None:
    queue = Queue(3.0)
    search = RateSearch(queue)
    first = search.highest("mean", 5, 2.0)
    before = len(queue.asked)
    assert search.highest("mean", 5, first) == first
    assert len(queue.asked) == before
    search.highest("p90", 5, first)
    assert len(queue.asked) <= before + 10
    assert len(queue.asked) == len(set(queue.asked))


def test_it_ends_where_nothing_keeps_or_breaks_the_objective() -> None:
    always = RateSearch(lambda _: {"mean": 1.0}).highest("mean", 5, 2.0)
    assert 1_000 < always / 2.0 < math.inf
    never = RateSearch(lambda _: {"mean": 9.0}).highest("mean", 5, 2.0)
    assert never == 0
