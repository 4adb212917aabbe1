"""Who is read when, and what is told of it: the policy, with its clock passed in."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from collectors.errors import DataError
from collectors.samplers.parts import Parts
from collectors.samplers.sampler import Absent, Happening, Reading
from collectors.samplers.schedule import ABSENT_S, LONGEST_PAUSE_S, OVERDUE_S, Schedule
from collectors.samplers.standing import PRESENT, QUIET_S, Standing, State
from collectors.samplers.tally import TELL_S, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ABSENT = Standing(State.ABSENT, "there is no driver")
FAILED = Standing(State.FAILING, "OSError: it broke")


def drive(
    schedule: Schedule, stands: Callable[[str, float], Standing], until_s: float
) -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
    """Read whoever is due, each at once: when who was read, and when what was told."""
    reads, told = [], []
    now_s = 0.0
    while now_s <= until_s:
        for name in schedule.due(now_s):
            reads.append((now_s, name))
            if news := schedule.answered(name, stands(name, now_s), now_s):
                told.append((now_s, news.name))
        now_s += max(schedule.wait_s(now_s), 0.001)
    return reads, told


def test_samplers_keep_their_periods_and_step() -> None:
    """A loop that is late does not shift them, and what was missed is not made up for."""
    schedule = Schedule({"fast": 1.0, "slow": 5.0})
    schedule.restart(0.0)
    reads, told = drive(schedule, lambda *_: PRESENT, 10.0)
    assert [at for at, name in reads if name == "fast"] == [float(at) for at in range(11)]
    assert [at for at, name in reads if name == "slow"] == [0.0, 5.0, 10.0]
    assert told == [(0.0, "sampler.present")] * 2
    assert schedule.due(13.7) == ["fast"]
    schedule.answered("fast", PRESENT, 13.8)
    assert schedule.wait_s(13.8) == pytest.approx(0.2)
    assert schedule.due(13.9) == []


def test_an_absent_source_is_told_once_and_looked_for_rarely_until_it_comes() -> None:
    schedule = Schedule({"gpu": 1.0})
    schedule.restart(0.0)
    reads, told = drive(schedule, lambda _, at: ABSENT if at < 100 else PRESENT, 122.0)
    assert [at for at, _ in reads] == [0.0, ABSENT_S, 2 * ABSENT_S, 121.0, 122.0]
    assert told == [(0.0, "sampler.absent"), (120.0, "sampler.present")]


def test_a_failing_sampler_backs_off_is_told_once_and_delays_nobody() -> None:
    schedule = Schedule({"bad": 1.0, "good": 1.0})
    schedule.restart(0.0)
    reads, told = drive(schedule, lambda name, _: FAILED if name == "bad" else PRESENT, 200.0)
    times = [at for at, name in reads if name == "bad"]
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps == pytest.approx([2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S])
    assert len([at for at, name in reads if name == "good"]) == 201
    assert sorted(name for _, name in told) == ["sampler.failed", "sampler.present"]
    [bad, _] = schedule.status()
    assert (bad["state"], bad["reason"], bad["failures"]) == ("failing", FAILED.reason, len(times))


def test_one_that_flaps_is_told_of_once_a_minute_and_varying_texts_end() -> None:
    schedule = Schedule({"flaps": 1.0, "varies": 1.0})
    schedule.restart(0.0)

    def stands(name: str, at_s: float) -> Standing:
        if name == "varies":
            return Standing(State.FAILING, f"error at {at_s}")
        return PRESENT if at_s % 4 < 2 else FAILED

    _, told = drive(schedule, stands, 3600.0)
    flaps = [at for at, name in told if name == "sampler.present"]
    gaps = [after - before for before, after in pairwise(flaps)]
    assert len(flaps) > 40
    assert min(gaps) >= QUIET_S
    assert len(told) <= 61 + 61 + 32


def test_a_reading_that_does_not_end_is_told_and_its_sampler_left_alone() -> None:
    schedule = Schedule({"hangs": 1.0, "good": 1.0})
    schedule.restart(0.0)
    assert schedule.due(0.0) == ["hangs", "good"]
    schedule.answered("hangs", PRESENT, 0.0)
    schedule.answered("good", PRESENT, 0.0)
    told: list[tuple[float, Happening]] = []
    for second in range(1, 31):
        due = schedule.due(float(second))
        assert due == (["hangs", "good"] if second == 1 else ["good"])
        schedule.answered("good", PRESENT, float(second))
        told += [(float(second), one) for one in schedule.overdue(float(second))]
    [(at_s, late)] = told
    assert at_s == 1 + OVERDUE_S
    assert (late.name, late.attributes["sampler"]) == ("sampler.failed", "hangs")
    well = schedule.answered("hangs", PRESENT, 61.0)
    assert well == Happening("sampler.present", {"sampler": "hangs", "failures": 1})
    assert schedule.due(61.0) == ["hangs", "good"]


def test_a_new_run_is_told_how_all_stand() -> None:
    schedule = Schedule({"gpu": 1.0, "cpu": 1.0, "never read": 1.0})
    schedule.restart(0.0)
    schedule.answered("gpu", ABSENT, 0.0)
    schedule.answered("cpu", PRESENT, 0.0)
    assert [(one.name, one.attributes) for one in schedule.happenings()] == [
        ("sampler.absent", {"sampler": "gpu", "reason": ABSENT.reason}),
        ("sampler.present", {"sampler": "cpu"}),
    ]
    schedule.restart(500.0)
    assert schedule.happenings() == []
    assert schedule.due(500.0) == ["gpu", "cpu", "never read"]
    assert schedule.answered("gpu", ABSENT, 500.0), "a new beginning is told anew"


def test_parts_that_fail_leave_the_others_and_all_of_them_are_an_error() -> None:
    parts = Parts("ib")

    def give() -> Iterable[Reading]:
        yield Reading("x", 1.0)

    def half() -> Iterable[Reading]:
        yield Reading("y", 1.0)
        raise DataError("torn")

    def deny() -> Iterable[Reading]:
        raise Absent("not yours")

    found = parts.read({"a": give, "b": half, "c": deny}, 0.0)
    assert [one.name for one in found] == ["x", "y", "sampler.failed", "sampler.absent"]
    assert [one.name for one in parts.read({"a": give, "b": half, "c": deny}, 1.0)] == ["x", "y"]
    assert [one.name for one in parts.read({"a": give, "b": give, "c": deny}, 2.0)] == [
        *("x", "x", "sampler.present"),
    ]
    with pytest.raises(DataError, match="torn"):
        parts.read({"b": half, "c": deny}, 3.0)
    with pytest.raises(Absent, match="not yours"):
        parts.read({"c": deny}, 4.0)


def test_a_tally_tells_at_once_and_then_how_many() -> None:
    tally = Tally()
    assert tally.add({"a": 2, "b": 0}, 0.0) == {"a": 2}
    assert tally.add({"a": 1}, 1.0) == {}
    assert tally.add({"b": 4}, TELL_S) == {"a": 1, "b": 4}
    assert tally.add({"a": 0}, 5 * TELL_S) == {}
