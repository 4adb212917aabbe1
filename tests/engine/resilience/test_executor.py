"""An executor obeys the newest driver, runs one attempt at a time, and ends what nobody watches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.resilience.config import ResilienceConfig
from engine.resilience.executor import (
    CheckEnded,
    DriverHeard,
    EndRanks,
    Examine,
    Executor,
    Leave,
    RanksBegan,
    RanksEnded,
    RanksGone,
    RunRanks,
    Send,
    TimePassed,
)
from engine.resilience.messages import (
    Adopt,
    Began,
    Check,
    Checked,
    Ended,
    Place,
    Release,
    Resume,
    Start,
    Stop,
    Stopped,
)

if TYPE_CHECKING:
    from engine.resilience.executor import Action

_CONFIG = ResilienceConfig(orphan_s=30.0, check_s=10.0)


def _executor() -> Executor:
    return Executor("a", _CONFIG, now=0.0)


def _start(attempt: int, generation: int = 1) -> Start:
    places = (Place(host="a", first=0, count=1),)
    return Start(
        generation=generation, attempt=attempt, places=places, step=0, resume=Resume.NOTHING
    )


def _kinds(actions: list[Action]) -> list[type]:
    return [type(action) for action in actions]


def test_new_ranks_wait_for_the_end_of_the_old() -> None:
    executor = _executor()
    assert RunRanks(order=_start(1)) in executor.handle(_start(1), 1.0)
    assert executor.handle(_start(2), 2.0) == [EndRanks(attempt=1)]
    assert executor.handle(_start(3), 2.5) == [], "it is ending them already"
    actions = executor.handle(RanksGone(attempt=1), 3.0)
    assert Send(report=Stopped(host="a", attempt=1)) in actions
    assert RunRanks(order=_start(3)) in actions
    assert executor.attempt == 3


def test_orders_of_a_replaced_driver_are_refused() -> None:
    executor = _executor()
    executor.handle(Adopt(generation=2), 1.0)
    assert executor.handle(_start(7, generation=1), 2.0) == []
    assert executor.handle(Release(generation=1), 2.0) == []
    assert RunRanks(order=_start(8, 2)) in executor.handle(_start(8, generation=2), 3.0)


def test_an_order_that_comes_again_tells_the_end_again() -> None:
    executor = _executor()
    executor.handle(_start(1), 1.0)
    assert executor.handle(_start(1), 1.5) == []
    ended = Ended(host="a", attempt=1, well=True)
    assert executor.handle(RanksEnded(how=ended), 2.0) == [Send(report=ended)]
    assert executor.handle(_start(1), 3.0) == [Send(report=ended)]


def test_a_start_after_its_stop_is_ignored() -> None:
    executor = _executor()
    assert executor.handle(Stop(generation=1, attempt=5), 1.0) == [
        Send(report=Stopped(host="a", attempt=5))
    ]
    assert executor.handle(_start(5), 2.0) == []
    assert executor.handle(_start(4), 2.0) == []


def test_ranks_wait_for_a_self_check_but_not_for_one_that_hangs() -> None:
    executor = _executor()
    assert _kinds(executor.handle(Check(generation=1, number=1), 1.0)) == [Examine]
    executor.handle(Check(generation=1, number=2), 2.0)
    assert executor.handle(_start(1), 3.0) == []
    old = Checked(host="a", number=1, sound=True)
    assert executor.handle(CheckEnded(how=old), 4.0) == [Send(report=old)], "2 goes on"
    assert executor.handle(TimePassed(), 5.0) == []
    assert RunRanks(order=_start(1)) in executor.handle(TimePassed(), 12.5)


def test_no_self_check_beside_ranks() -> None:
    executor = _executor()
    executor.handle(_start(1), 1.0)
    assert executor.handle(Check(generation=1, number=1), 2.0) == []


def test_ranks_of_no_driver_are_ended_even_if_one_is_heard_just_then() -> None:
    executor = _executor()
    executor.handle(_start(1), 1.0)
    executor.handle(DriverHeard(), 20.0)
    assert executor.handle(TimePassed(), 49.0) == []
    assert executor.handle(DriverHeard(), 51.0) == [EndRanks(attempt=1)]
    assert _kinds(executor.handle(RanksGone(attempt=1), 52.0)) == [Send, Leave]


def test_a_beginning_is_told_once_and_not_of_ranks_that_are_being_ended() -> None:
    executor = _executor()
    executor.handle(_start(1), 1.0)
    assert executor.handle(RanksBegan(attempt=1), 2.0) == [Send(report=Began(host="a", attempt=1))]
    executor.handle(Stop(generation=1, attempt=1), 3.0)
    assert executor.handle(RanksBegan(attempt=1), 4.0) == []
    assert executor.handle(RanksBegan(attempt=9), 4.0) == []
