"""A job that gets nowhere is ended; one that gets on, or is restarted by people, is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.resilience.cause import Cause, Incident
from engine.resilience.crash_loop import CrashLoop

_AFTER = 3
_ERROR = Incident(cause=Cause.ERROR, ranks=(1,), hosts=("a",), detail="ValueError")


def test_the_same_fault_without_progress_is_a_loop() -> None:
    loop = CrashLoop(_AFTER)
    assert [bool(loop.add(_ERROR, 7)) for _ in range(_AFTER)] == [False, False, True]
    assert "step 7" in CrashLoop(1).add(_ERROR, 7)


def test_progress_forgives() -> None:
    loop = CrashLoop(_AFTER)
    assert not any(loop.add(_ERROR, step) for step in range(50))


def test_people_may_restart_as_often_as_they_like() -> None:
    loop = CrashLoop(_AFTER)
    assert not any(loop.add(Incident(cause=Cause.PERSON), 0) for _ in range(50))


def test_hosts_that_are_lost_one_after_another_are_not_one_fault() -> None:
    loop = CrashLoop(_AFTER)
    lost = [Incident(cause=Cause.HOST_LOST, hosts=(name,)) for name in "abcde"]
    assert not any(loop.add(each, 0) for each in lost)


@given(st.lists(st.sampled_from(list(Cause)), min_size=20, max_size=60))
def test_faults_of_all_kinds_end_a_job_in_the_end(causes: list[Cause]) -> None:
    loop = CrashLoop(_AFTER)
    ends = [bool(loop.add(Incident(cause=cause), 0)) for cause in causes]
    counted = [cause for cause in causes if cause is not Cause.PERSON]
    assert any(ends) == (
        len(counted) >= 4 * _AFTER or any(counted.count(cause) >= _AFTER for cause in counted)
    )
