"""What the rules find in heartbeats, and what they leave alone."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from engine.resilience.cause import Cause
from engine.resilience.config import ResilienceConfig
from engine.resilience.messages import Beat, Place, RankState, StepDone
from engine.resilience.rules.rule import Attempt
from engine.resilience.rules.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.resilience.cause import Incident

_PLACES = (Place(host="a", first=0, count=1), Place(host="b", first=1, count=1))


def _watch(repeated: Mapping[str, list[object]] | None = None, norms: int = 32) -> Watch:
    config = ResilienceConfig(overdue_factor=4.0, overdue_least_s=5.0, lost_after_s=1000.0)
    attempt = Attempt(places=_PLACES, step=0, begun_s=0.0, config=config)
    return Watch(attempt, repeated or {}, deque([1.0] * norms))


def _beat(watch: Watch, host: str, now: float, *done: StepDone, **facts: object) -> list[Incident]:
    beat = Beat(host=host, incarnation="1", attempt=1, done=done, **facts)  # type: ignore[arg-type]
    return watch.beat(beat, now)


def _done(rank: int, step: int, **facts: object) -> StepDone:
    facts = {"loss": 2.0, "norm": 1.0, "own_norm": 1.0, **facts}
    return StepDone(rank=rank, step=step, seconds=1.0, **facts)  # type: ignore[arg-type]


def test_a_rank_whose_gradient_is_no_number_is_named() -> None:
    watch = _watch()
    assert not _beat(watch, "a", 1.0, _done(0, 7, loss=None, norm=None))
    (found,) = _beat(watch, "b", 1.0, _done(1, 7, loss=None, norm=None, own_norm=None))
    assert (found.cause, found.ranks, found.hosts) == (Cause.NAN_RANK, (1,), ("b",))
    assert found.good_until == 6


def test_a_batch_that_gives_no_number_anywhere_is_nobodys_fault() -> None:
    watch = _watch()
    _beat(watch, "a", 1.0, _done(0, 7, loss=None, norm=None, own_norm=None))
    (found,) = _beat(watch, "b", 1.0, _done(1, 7, loss=None, norm=None, own_norm=None))
    assert (found.cause, found.hosts) == (Cause.NAN_BATCH, ())


def test_numbers_that_are_never_told_whole_are_judged_by_what_was_told() -> None:
    watch = _watch()
    assert not _beat(watch, "b", 1.0, _done(1, 7, own_norm=1e9))
    assert not _beat(watch, "a", 1.0, _done(0, 8))
    (found,) = _beat(watch, "b", 2.0, _done(1, 8))
    assert (found.cause, found.ranks, found.good_until) == (Cause.CORRUPT_GRADIENT, (1,), 6)


def test_a_corrupted_gradient_that_comes_again_elsewhere_is_the_datas() -> None:
    bad = _done(1, 7, own_norm=1e9)
    for hosts, recover in ((["a"], False), (["b"], True)):
        watch = _watch({str(Cause.CORRUPT_GRADIENT): [7, *hosts]})
        _beat(watch, "a", 1.0, _done(0, 7))
        (found,) = _beat(watch, "b", 1.0, bad)
        assert found.recover is recover


def test_how_large_a_gradient_is_must_be_known_first() -> None:
    watch = _watch(norms=0)
    _beat(watch, "a", 1.0, _done(0, 1))
    assert not _beat(watch, "b", 1.0, _done(1, 1, own_norm=1e9))


def test_weights_that_changed_between_steps_are_trusted_up_to_the_step_before() -> None:
    (found,) = _beat(_watch(), "a", 1.0, _done(0, 9, intact=False))
    assert (found.cause, found.good_until) == (Cause.CORRUPT_WEIGHTS, 8)


def test_the_rank_that_never_came_to_the_collective_is_named_by_what_it_does() -> None:
    watch = _watch()
    waits = RankState(rank=0, step=3, waits_in="dp all_reduce", process="S")
    for rank, host in ((0, "a"), (1, "b")):
        _beat(watch, host, 3.0, _done(rank, 3))
    _beat(watch, "a", 4.0, ranks=(waits,))
    _beat(watch, "b", 4.0, ranks=(RankState(rank=1, step=3, process="T"),))
    assert not watch.look(8.0), "within its patience"
    (found,) = watch.look(8.1)
    assert (found.cause, found.ranks) == (Cause.STOPPED, (1,))
    assert not watch.look(20.0), "told once"


def test_a_checkpoint_is_no_hang() -> None:
    watch = _watch()
    for rank, host in ((0, "a"), (1, "b")):
        _beat(watch, host, 3.0, _done(rank, 3))
        _beat(watch, host, 3.0, ranks=(RankState(rank=rank, step=3, busy="checkpoint"),))
    assert not watch.look(60.0)
    assert watch.look(64.0)


def test_each_word_in_the_log_is_told_once_for_each_host() -> None:
    watch = _watch()
    assert len(_beat(watch, "a", 1.0, lines=("NVRM: Xid 79", "NVRM: xid 31"))) == 1
    assert not _beat(watch, "a", 2.0, lines=("NVRM: Xid 79",))
    assert len(_beat(watch, "b", 2.0, lines=("NVRM: Xid 79",))) == 1


def test_a_host_whose_round_trips_grow_has_a_slow_link() -> None:
    watch = _watch()
    found: list[Incident] = []
    for beat in range(40):
        congested = 0.38 if 20 <= beat < 30 else 0.0004
        assert not _beat(watch, "a", float(beat), round_trip_s=0.0004)
        found += _beat(watch, "b", float(beat), round_trip_s=congested)
    (incident,) = found
    assert (incident.cause, incident.hosts, incident.recover) == (Cause.LINK, ("b",), False)


def test_a_rank_that_is_stopped_within_a_collective_is_the_one_that_never_came() -> None:
    watch = _watch()
    for host, rank, process in (("a", 0, "S"), ("b", 1, "T")):
        state = RankState(rank=rank, step=7, waits_in="dp[0,1] all_reduce 9", process=process)
        _beat(watch, host, 1.0, _done(rank, 7), ranks=(state,))
    (found,) = watch.look(20.0)
    assert (found.cause, found.ranks, found.hosts) == (Cause.STOPPED, (1,), ("b",))


def test_after_a_long_checkpoint_a_step_has_its_usual_time() -> None:
    watch = _watch()
    for beat in range(80):  # 40 s in the checkpoint, the last of them over
        for host, rank in (("a", 0), ("b", 1)):
            busy = "checkpoint" if beat < 78 else ""
            done = [_done(rank, 7)] if not beat else []
            state = RankState(rank=rank, step=7, process="S", busy=busy)
            _beat(watch, host, 1.0 + beat / 2, *done, ranks=(state,))
        assert not watch.look(1.0 + beat / 2)
    assert not watch.look(43.0)
    assert watch.look(46.0)


def test_a_step_that_a_slow_link_holds_up_is_the_links() -> None:
    watch = _watch()
    for beat in range(10):
        for host, rank in (("a", 0), ("b", 1)):
            state = RankState(rank=rank, step=7, waits_in="dp[0,1] all_reduce 9", process="S")
            done = [_done(rank, 7)] if not beat else []
            trip = 0.4 if host == "b" and beat > 5 else 0.0004
            _beat(watch, host, 1.0 + beat / 2, *done, ranks=(state,), round_trip_s=trip)
    (found,) = watch.look(20.0)
    assert (found.cause, found.hosts, found.recover) == (Cause.LINK, ("b",), True)


def test_a_link_over_which_all_take_long_is_as_ever() -> None:
    watch = _watch()
    for beat in range(40):
        assert not _beat(watch, "a", float(beat), round_trip_s=0.12 if beat else 0.03)
        assert not _beat(watch, "b", float(beat), round_trip_s=0.3 if beat % 3 == 2 else 0.09)
        assert not _beat(watch, "b", float(beat))
