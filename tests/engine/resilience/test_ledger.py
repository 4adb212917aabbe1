"""Every second has one cause, and the causes add up, whatever ranks tell."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.resilience.ledger import Ledger, Spent
from engine.resilience.messages import StepDone

_seconds = st.floats(0.0, 50.0)
_doings = st.tuples(
    st.sampled_from(["turn", "train", "step", "advance", "store"]),
    st.sampled_from([Spent.RESTART, Spent.IDLE, Spent.SELF_CHECK, Spent.START_UP]),
    st.floats(-5.0, 50.0),
    st.tuples(_seconds, _seconds, _seconds),
)


@given(st.lists(_doings, max_size=40))
def test_causes_add_up_and_none_is_negative(
    doings: list[tuple[str, Spent, float, tuple[float, float, float]]],
) -> None:
    ledger, now = Ledger(begun_s=100.0), 100.0
    for step, (what, spent, passed, (seconds, data_s, checkpoint_s)) in enumerate(doings):
        now += passed  # a new driver's clock may be behind
        ledger.advance(now)
        if what == "turn":
            ledger.turn(spent, now)
        elif what == "train":
            ledger.train(now)
        elif what == "step":
            done = StepDone(
                rank=0, step=step, seconds=seconds, data_s=data_s, checkpoint_s=checkpoint_s
            )
            ledger.step(done)
        elif what == "store":
            ledger = Ledger.from_json(json.loads(json.dumps(ledger.to_json())))
    ledger.finish(now)
    assert min(ledger.spent_s.values()) >= 0.0
    assert sum(ledger.spent_s.values()) == pytest.approx(ledger.wall_s, abs=1e-6)


def test_steps_that_were_done_before_are_recomputation_and_the_rest_is_detection() -> None:
    ledger = Ledger(begun_s=0.0)
    ledger.turn(Spent.START_UP, 0.0)
    ledger.train(10.0)
    for step in (1, 2, 3):
        ledger.advance(10.0 + step)
        ledger.step(StepDone(rank=0, step=step, seconds=1.0, data_s=0.25))
    ledger.turn(Spent.RESTART, 20.0)
    ledger.train(25.0)
    ledger.advance(26.0)
    ledger.step(StepDone(rank=0, step=3, seconds=1.0))
    ledger.advance(27.0)
    ledger.step(StepDone(rank=0, step=4, seconds=1.0))
    ledger.finish(27.0)
    assert ledger.spent_s[Spent.START_UP] == 10.0
    assert ledger.spent_s[Spent.DATA] == 0.75
    assert ledger.spent_s[Spent.PRODUCTIVE] == 2.25 + 1.0
    assert ledger.spent_s[Spent.DETECTION] == 7.0
    assert ledger.spent_s[Spent.RESTART] == 5.0
    assert ledger.spent_s[Spent.RECOMPUTATION] == 1.0
    assert ledger.gap == 0.0
    assert ledger.best == 4


def test_the_last_hour_forgets_what_was_before_also_within_one_attempt() -> None:
    ledger = Ledger(begun_s=0.0)
    ledger.train(0.0)
    ledger.advance(3600.0)
    ledger.step(StepDone(rank=0, step=1, seconds=3600.0, data_s=3600.0))
    for step in range(2, 130):
        ledger.advance(3600.0 + 60.0 * step)
        ledger.step(StepDone(rank=0, step=step, seconds=60.0))
    assert ledger.effective_lately == 1.0
    assert ledger.effective < 0.7


def test_time_that_has_not_passed_is_not_counted() -> None:
    ledger = Ledger(begun_s=0.0)
    ledger.train(0.0)
    ledger.advance(1.0)
    ledger.step(StepDone(rank=0, step=1, seconds=5.0))
    ledger.finish(1.0)
    assert ledger.spent_s[Spent.PRODUCTIVE] == 1.0
    assert ledger.excess_s == 4.0
