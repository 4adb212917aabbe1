"""How room is made, case by case. Blocks hold one token; every job's prompt is whole."""

from __future__ import annotations

from typing import Any

from engine.scheduling.job import Place
from engine.scheduling.limits import Limits, MakeRoom
from engine.scheduling.prefixes import NoPrefixes
from engine.scheduling.scheduler import Scheduler


def limits(make_room: MakeRoom = MakeRoom.RECOMPUTE, **others: Any) -> Limits:
    """Ten blocks, of which one is the watermark."""
    settings: dict[str, Any] = {"max_batch": 4, "blocks": 10, "block_tokens": 1}
    return Limits(make_room=make_room, **(settings | others))


def numbers(jobs: Any) -> list[int]:
    return [each.number for each in jobs]


def test_the_newest_is_dropped(engine_double: Any, make: Any, job: Any) -> None:
    engine = engine_double(make("fcfs"), limits())
    old, new = job(0, 4, 6), job(1, 3, 6, arrived_s=1.0)
    engine.add([old, new])
    for _ in range(2):
        engine.decide()
        engine.end()
    iteration = engine.decide()  # 6 and 5 tokens do not fit
    assert (numbers(iteration.drop), [work.job for work in iteration.work]) == ([], [old])
    engine.end()
    iteration = engine.decide()
    assert (numbers(iteration.drop), [work.job for work in iteration.work]) == ([1], [old])
    assert (new.place, new.cached) == (Place.NOWHERE, 0)
    engine.drain()
    assert engine.finished == [0, 1]


def test_nobody_overtakes_who_does_not_fit(engine_double: Any, make: Any, job: Any) -> None:
    engine = engine_double(make("fcfs"), limits())
    engine.add([job(0, 5, 2), job(1, 6, 2, arrived_s=1.0), job(2, 1, 2, arrived_s=2.0)])
    assert [work.job.number for work in engine.decide().work] == [0]


def test_the_urgent_displaces_and_the_iteration_waits(
    engine_double: Any, make: Any, job: Any
) -> None:
    engine = engine_double(make("priority"), limits(MakeRoom.REACTIVE, host_blocks=10))
    slow, urgent = job(0, 6, 3, urgency=1), job(1, 6, 1)
    engine.add([slow])
    engine.decide()
    engine.end()
    engine.add([urgent])
    iteration = engine.decide()
    assert (numbers(iteration.offload), iteration.waits) == ([0], True)
    assert [work.job for work in iteration.work] == [urgent]
    engine.end()
    iteration = engine.decide()
    assert (numbers(iteration.upload), iteration.waits) == ([0], True)
    assert [(work.job, work.first) for work in iteration.work] == [(slow, 6)]


def test_others_run_while_blocks_are_moved(engine_double: Any, make: Any, job: Any) -> None:
    engine = engine_double(make("priority"), limits(MakeRoom.PROACTIVE, host_blocks=10))
    first, last = job(0, 3, 7, urgency=1), job(1, 3, 7, urgency=2)
    engine.add([first, last])
    engine.decide()
    engine.end()
    urgent = job(2, 5, 1)
    engine.add([urgent])
    iteration = engine.decide()  # 4 are free, 6 are needed
    assert (numbers(iteration.offload), iteration.waits) == ([1], False)
    assert [work.job for work in iteration.work] == [first]
    engine.move()
    engine.end()
    assert [work.job for work in engine.decide().work] == [urgent, first]


def test_a_victim_is_dropped_where_the_host_is_full(
    engine_double: Any, make: Any, job: Any
) -> None:
    engine = engine_double(make("priority"), limits(MakeRoom.PROACTIVE, host_blocks=2))
    engine.add([job(0, 6, 3, urgency=1)])
    engine.decide()
    engine.end()
    engine.add([job(1, 6, 1)])
    iteration = engine.decide()
    assert (numbers(iteration.drop), numbers(iteration.offload)) == ([0], [])
    assert [work.job.number for work in iteration.work] == [1]


def test_idle_blocks_are_kept_and_what_left_comes_back(
    engine_double: Any, make: Any, job: Any
) -> None:
    """Two run; the third is last by estimate."""
    keep = limits(MakeRoom.PROACTIVE, host_blocks=10, blocks=20, max_batch=2, idle_blocks=9)
    engine = engine_double(make("fcfs"), keep)
    jobs = [job(number, 4, 3, arrived_s=float(number)) for number in range(3)]
    newest = jobs[2]
    engine.add([newest])
    engine.decide()
    engine.end()
    engine.add(jobs[:2])
    iteration = engine.decide()
    assert [work.job.number for work in iteration.work] == [0, 1]
    assert numbers(iteration.offload) == [2]
    engine.move()
    engine.end()
    assert newest.place is Place.HOST
    assert not engine.decide().upload
    engine.drain()
    assert engine.finished == [0, 1, 2]


def test_a_pipeline_takes_the_highest_that_is_not_in_flight(
    engine_double: Any, make: Any, job: Any
) -> None:
    engine = engine_double(make("priority"), limits(max_batch=1), stages=2)
    engine.add([job(number, 1, 2, urgency=number) for number in (2, 1, 0)])
    assert [engine.decide().work[0].job.number for _ in range(2)] == [0, 1]
    engine.end()
    assert engine.decide().work[0].job.number == 0


def test_a_job_that_has_left_holds_blocks_until_its_iteration_is_over(
    engine_double: Any, make: Any, job: Any
) -> None:
    engine = engine_double(make("fcfs"), limits())
    engine.add([job(0, 3), job(1, 3)])
    engine.decide()
    engine.withdraw(0)
    assert engine.scheduler.pages.free < 10
    assert len(engine.scheduler) == 1
    engine.end()
    engine.withdraw(1)
    assert engine.scheduler.pages.free == 10


def test_what_the_prefix_cache_has_is_not_computed(make: Any, job: Any) -> None:
    class EightTokens(NoPrefixes):
        def share(self, job: Any) -> int:
            return 8

    scheduler = Scheduler(make("fcfs"), limits(), EightTokens())
    scheduler.add(job(0, 8, 1), 0.0)
    (work,) = scheduler.schedule(0.0).work
    assert (work.first, work.tokens, work.gives, work.job.shared) == (7, 1, True, 7)


def test_a_request_may_reserve_the_longest(engine_double: Any, make: Any, job: Any) -> None:
    engine = engine_double(make("fcfs"), limits(reserve_tokens=4))
    engine.add([job(number, 1, 2) for number in range(4)])
    assert len(engine.decide().work) == 2


def test_a_whole_batch_ends_before_the_next(engine_double: Any, make: Any, job: Any) -> None:
    engine = engine_double(make("fcfs"), limits(whole_batches=True, max_batch=2))
    engine.add([job(0, 1, 1), job(1, 1, 3), job(2, 1, 1)])
    batches = []
    while engine.jobs:
        batches.append([work.job.number for work in engine.decide().work])
        engine.end()
    assert batches == [[0, 1], [1], [1], [2]]
