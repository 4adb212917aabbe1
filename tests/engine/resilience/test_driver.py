"""What a driver decides, event by event; what it does in all the world is simulated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from engine.resilience.config import ResilienceConfig
from engine.resilience.driver import Driver
from engine.resilience.effects import FindOnDisk, Finish, Note, Tell
from engine.resilience.messages import (
    Asked,
    Beat,
    Began,
    Copy,
    Disconnected,
    Ended,
    Hello,
    RankState,
    Release,
    Resume,
    Slow,
    Start,
    StepDone,
    Stop,
    Stopped,
    Tick,
    Wish,
)
from engine.resilience.phase import Phase

if TYPE_CHECKING:
    from engine.resilience.effects import Effect
    from engine.resilience.messages import Event, Order

_CONFIG = ResilienceConfig(recover=True, hosts=2, orphan_s=60.0, check="never")


class _Job:
    """A driver, and what it has wanted so far."""

    def __init__(self, past: Any = None, generation: int = 1, **config: Any) -> None:
        self.driver = Driver(
            _CONFIG.model_copy(update=config),
            generation=generation,
            ranks_per_host=1,
            last_step=100,
            now=0.0,
            past=past,
        )
        self.now = 0.0

    def tell(self, event: Event, seconds: float = 0.1) -> list[Effect]:
        self.now += seconds
        return self.driver.handle(event, self.now)

    def hello(self, *hosts: str, incarnation: str = "1", attempt: int = 0) -> list[Effect]:
        said = [
            Hello(host=h, incarnation=incarnation, slots=1, address=h, attempt=attempt)
            for h in hosts
        ]
        return [effect for hello in said for effect in self.tell(hello)]

    def run(self, *hosts: str) -> _Job:
        self.hello(*hosts)
        for host in hosts[:2]:
            self.tell(Began(host=host, attempt=self.driver.attempt))
        assert self.driver.phase is Phase.RUNNING
        return self

    def beat(self, host: str, **facts: Any) -> list[Effect]:
        facts.setdefault("attempt", self.driver.attempt)
        return self.tell(Beat(host=host, incarnation="1", **facts))


def _orders(effects: list[Effect], kind: type[Order]) -> dict[str, Any]:
    return {
        effect.host: effect.order
        for effect in effects
        if isinstance(effect, Tell) and isinstance(effect.order, kind)
    }


def _killed(host: str, attempt: int) -> Ended:
    return Ended(host=host, attempt=attempt, well=False, rank=0, signal="SIGKILL")


def test_it_starts_when_enough_hosts_are_there() -> None:
    job = _Job()
    assert not _orders(job.hello("a"), Start)
    orders = _orders(job.hello("b"), Start)
    assert set(orders) == {"a", "b"}
    assert orders["a"] == orders["b"]
    assert orders["a"].resume is Resume.NOTHING


def test_after_a_fault_it_goes_on_when_the_others_have_stopped_from_the_newest_copies() -> None:
    job = _Job().run("a", "b")
    copies = tuple(Copy(attempt=1, rank=rank, step=10) for rank in (0, 1))
    job.beat("a", copies=copies)
    job.beat("b", copies=copies)
    assert job.driver.past.acknowledged == 10
    assert set(_orders(job.tell(_killed("a", 1)), Stop)) == {"b"}
    orders = _orders(job.tell(Stopped(host="b", attempt=1)), Start)
    assert orders["a"].step == 10
    assert orders["a"].resume is Resume.MEMORY
    assert orders["a"].origin == 1


def test_a_heartbeat_from_before_the_order_to_start_does_not_say_that_ranks_have_stopped() -> None:
    job = _Job().run("a", "b")
    job.tell(_killed("a", 1))
    assert not _orders(job.beat("b", attempt=0), Start)
    assert _orders(job.tell(Stopped(host="b", attempt=1)), Start)


def test_hosts_that_are_all_out_of_reach_are_given_the_time_to_end_their_ranks() -> None:
    job = _Job(lost_after_s=1e6).run("a", "b")
    job.hello("c", "d")
    for host in ("a", "b"):
        job.tell(Disconnected(host=host, incarnation="1"))
    assert not _orders(job.tell(Tick(), 30.0), Start)
    assert job.driver.phase is Phase.STOPPING
    assert not _orders(job.tell(Tick(), 59.0), Start)
    assert set(_orders(job.tell(Tick(), 2e6), Start)) == set()
    job.hello("c", "d")
    assert {place.host for place in job.driver.places} == {"c", "d"}


def test_why_a_peer_was_lost_counts_also_when_it_is_told_late() -> None:
    job = _Job().run("a", "b")
    job.tell(Ended(host="a", attempt=1, well=False, rank=0, lost_peer=True))
    effects = job.tell(Tick(), 2.0)
    assert set(_orders(effects, Stop)) == {"b"}
    oom = Ended(host="b", attempt=1, well=False, rank=1, signal="SIGKILL", out_of_memory=True)
    effects = job.tell(oom)
    [told] = [e for e in effects if isinstance(e, Note) and e.name == "incident"]
    assert (told.facts["cause"], told.facts["ranks"]) == ("out of memory", [1])
    assert not [e for e in job.tell(oom) if isinstance(e, Note) and e.name == "incident"]
    assert job.driver.attempt == 2


def test_the_next_driver_adopts_ranks_that_go_on() -> None:
    first = _Job().run("a", "b")
    past = json.loads(json.dumps(first.driver.to_json()))
    second = _Job(past, generation=2)
    second.hello("a", "b", attempt=1)
    second.beat("a")
    second.beat("b")
    second.tell(Tick())
    assert second.driver.phase is Phase.RUNNING
    assert second.driver.attempt == 1


def test_the_next_drivers_attempts_have_numbers_that_the_first_never_gives() -> None:
    first = _Job().run("a", "b")
    second = _Job(json.loads(json.dumps(first.driver.to_json())), generation=2)
    second.hello("a", "b", attempt=1)
    second.tell(_killed("a", 1))
    second.tell(Stopped(host="b", attempt=1))
    assert second.driver.attempt == 10_001
    assert second.driver.attempts == 2


def test_an_end_that_the_driver_before_could_not_tell_is_told() -> None:
    first = _Job().run("a", "b")
    for host in ("a", "b"):
        first.tell(Ended(host=host, attempt=1, well=True))
    second = _Job(json.loads(json.dumps(first.driver.to_json())), generation=2)
    assert second.tell(Tick()) == [Finish(status="finished")]
    assert second.tell(Tick()) == []
    assert set(_orders(second.hello("a"), Release)) == {"a"}


def test_a_driver_that_was_replaced_ends() -> None:
    job = _Job()
    effects = job.tell(Hello(host="a", incarnation="1", slots=1, generation=2))
    assert [e.status for e in effects if isinstance(e, Finish)] == ["replaced"]


def test_bad_numbers_that_come_while_ranks_are_ended_still_count() -> None:
    job = _Job().run("a", "b")
    copies = tuple(Copy(attempt=1, rank=rank, step=step) for rank in (0, 1) for step in (10, 12))
    job.beat("a", copies=copies)
    job.beat("b", copies=copies)
    job.tell(_killed("a", 1))
    job.beat("b", done=(StepDone(rank=1, step=11, seconds=1.0, intact=False),))
    orders = _orders(job.tell(Stopped(host="b", attempt=1)), Start)
    assert orders["b"].step == 10


def test_steps_that_are_told_again_are_heard_once() -> None:
    job = _Job().run("a", "b")
    done = tuple(StepDone(rank=0, step=step, seconds=1.0) for step in (1, 2))
    job.now += 3.0
    job.beat("a", done=done)
    spent = dict(job.driver.ledger.spent_s)
    job.beat("a", done=done)
    assert job.driver.ledger.spent_s == spent


def test_a_step_shows_that_all_ranks_have_begun() -> None:
    job = _Job()
    job.hello("a", "b")
    job.beat("b", done=(StepDone(rank=1, step=1, seconds=1.0),))
    assert job.driver.phase is Phase.RUNNING


def test_an_executor_started_anew_has_no_ranks() -> None:
    job = _Job().run("a", "b")
    job.tell(Disconnected(host="a", incarnation="1"))
    effects = job.hello("a", incarnation="2")
    assert job.driver.phase is Phase.STOPPING
    assert not _orders(effects, Start)


def test_a_checkpoint_is_looked_at_before_it_is_used_and_none_that_was_given_up() -> None:
    job = _Job().run("a", "b")
    job.driver.past.saved(30)
    job.tell(_killed("a", 1))
    asked = [e for e in job.tell(Stopped(host="b", attempt=1)) if isinstance(e, FindOnDisk)]
    assert asked == [FindOnDisk(at_most=30)]


def test_an_evicted_host_gets_no_ranks_and_a_standby_takes_its_place() -> None:
    job = _Job().run("a", "b", "c")
    assert set(_orders(job.tell(Asked(wish=Wish.EVICT, host="a")), Stop)) == {"a", "b"}
    job.tell(Stopped(host="a", attempt=1))
    orders = _orders(job.tell(Stopped(host="b", attempt=1)), Start)
    assert set(orders) == {"b", "c"}


def test_a_rank_that_is_certainly_slow_is_moved_where_a_host_stands_by() -> None:
    slow = Slow(ranks=(1,), detail="twice as long", certain=True)
    job = _Job().run("a", "b", "c")
    assert set(_orders(job.tell(slow), Stop)) == {"a", "b"}
    job.tell(Stopped(host="a", attempt=1))
    orders = _orders(job.tell(Stopped(host="b", attempt=1)), Start)
    assert set(orders) == {"a", "c"}


@pytest.mark.parametrize(("hosts", "next_places"), [("abc", {"a", "c"}), ("ab", {"a", "b"})])
def test_a_host_whose_link_holds_the_job_up_is_left_out_where_one_stands_by(
    hosts: str, next_places: set[str]
) -> None:
    job = _Job().run(*hosts)
    for beat in range(20):
        for rank, host in enumerate("ab"):
            states = (RankState(rank=rank, step=3, waits_in="dp[0,1] all_reduce 1", process="S"),)
            done = (StepDone(rank=rank, step=3, seconds=1.0),) if not beat else ()
            trip = 0.4 if host == "b" and beat > 5 else 0.0004
            job.beat(host, ranks=states, done=done, round_trip_s=trip)
        if "c" in hosts:
            job.beat("c", attempt=0)
        job.now += 0.5
    job.tell(Tick())
    job.tell(Stopped(host="a", attempt=1))
    orders = _orders(job.tell(Stopped(host="b", attempt=1)), Start)
    assert set(orders) == next_places


def test_a_slow_rank_is_told_of_where_nobody_stands_by_or_it_is_not_sure() -> None:
    for hosts, certain in (("ab", True), ("abc", False)):
        job = _Job().run(*hosts)
        effects = job.tell(Slow(ranks=(1,), detail="slow", certain=certain))
        assert not _orders(effects, Stop)
        [told] = [e for e in effects if isinstance(e, Note) and e.name == "incident"]
        assert (told.facts["cause"], told.facts["hosts"]) == ("slow host", ["b"])


def test_a_job_that_goes_on_after_a_pause_waits_for_its_ranks_to_end() -> None:
    job = _Job().run("a", "b")
    job.tell(Asked(wish=Wish.PAUSE))
    assert not _orders(job.tell(Asked(wish=Wish.RESUME)), Start)
    job.tell(Stopped(host="a", attempt=1))
    assert _orders(job.tell(Stopped(host="b", attempt=1)), Start)
