"""Who gets which ranks, and who is let in again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from engine.resilience.config import ResilienceConfig
from engine.resilience.effects import Outbox, Tell
from engine.resilience.hosts import Host, assign
from engine.resilience.messages import Beat, Check, Checked, Hello, Place
from engine.resilience.roster import Roster

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAMES = [f"h{index}" for index in range(6)]


@given(
    st.lists(st.sampled_from(_NAMES), unique=True, max_size=4),
    st.lists(st.sampled_from(_NAMES), unique=True),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_ranks_are_assigned_once_each_and_hosts_keep_theirs(
    before: Sequence[str], usable: Sequence[str], hosts: int, ranks: int
) -> None:
    had = tuple(
        Place(host=name, first=index * ranks, count=ranks)
        for index, name in enumerate(before[:hosts])
    )
    places = assign(had, [Host(name=name, slots=ranks) for name in usable], hosts, ranks)
    assert (places is None) == (len(usable) < hosts)
    if places is None:
        return
    assert [rank for place in places for rank in place.ranks] == list(range(hosts * ranks))
    names = [place.host for place in places]
    assert len(set(names)) == hosts
    assert set(names) <= set(usable)
    for place in had:
        if place.host in usable:
            assert names[place.first // ranks] == place.host


def _roster() -> tuple[Roster, Outbox]:
    outbox = Outbox()
    roster = Roster(ResilienceConfig(block_s=100.0, check_s=10.0, lost_after_s=1e6), 2, outbox)
    roster["a"].greet(Hello(host="a", incarnation="1", slots=2), 1.0)
    return roster, outbox


def _check(outbox: Outbox) -> Check:
    orders = [effect.order for effect in outbox.take() if isinstance(effect, Tell)]
    assert len(orders) == 1
    assert isinstance(orders[0], Check)
    return orders[0]


def test_a_host_is_let_in_again_when_its_time_is_over_and_it_passes() -> None:
    roster, outbox = _roster()
    host = roster["a"]
    roster.block(host, "slow", 1.0)
    roster.tend(50.0)
    assert not [effect for effect in outbox.take() if isinstance(effect, Tell)]
    roster.tend(101.0)
    check = _check(outbox)
    assert check.thorough
    assert not host.usable(2)
    roster.conclude(Checked(host="a", number=check.number - 1, sound=True), 102.0)
    assert not host.usable(2), "that was another examination's verdict"
    roster.conclude(Checked(host="a", number=check.number, sound=True), 103.0)
    assert host.usable(2)
    assert not host.usable(3)


def test_a_host_that_fails_is_left_out_longer() -> None:
    roster, outbox = _roster()
    host = roster["a"]
    roster.block(host, "slow", 1.0)
    roster.tend(101.0)
    roster.conclude(Checked(host="a", number=_check(outbox).number, sound=False), 103.0)
    assert host.blocked_until_s == 103.0 + 200.0


def test_an_examination_that_does_not_end_is_a_failed_one() -> None:
    roster, outbox = _roster()
    host = roster["a"]
    host.suspect = "crashed"
    assert roster.examine()
    _check(outbox)
    roster.tend(10.0)
    roster.tend(21.0)
    assert host.blocked
    assert not host.checking


def test_only_a_person_leaves_a_host_out_for_ever() -> None:
    roster, outbox = _roster()
    host = roster["a"]
    roster.block(host, "slow", 1.0)
    roster.tend(101.0)
    number = _check(outbox).number
    roster.block(host, "evicted", 102.0, for_ever=True)
    roster.conclude(Checked(host="a", number=number, sound=True), 103.0)
    roster.reprieve(1e6)
    roster.tend(1e6)
    assert host.blocked


def test_a_job_that_waits_for_hosts_examines_those_that_are_left_out_early() -> None:
    roster, outbox = _roster()
    roster.block(roster["a"], "slow", 1.0)
    roster.reprieve(20.0)
    assert _check(outbox).thorough


def test_the_next_driver_numbers_its_examinations_differently() -> None:
    numbers = set()
    for generation in (1, 2, 3):
        outbox = Outbox()
        roster = Roster(ResilienceConfig(), generation, outbox)
        roster["a"].greet(Hello(host="a", incarnation="1", slots=2), 1.0)
        roster["a"].suspect = "crashed"
        roster.examine()
        numbers.add(_check(outbox).number)
    assert len(numbers) == 3


def test_an_executor_that_was_replaced_is_not_heeded_while_the_new_one_is_there() -> None:
    host = Host(name="a")
    host.greet(Hello(host="a", incarnation="old", slots=1), 0.0)
    host.greet(Hello(host="a", incarnation="new", slots=1), 1.0)
    assert not host.takes("old")
    assert host.takes("new")
    assert host.takes("newest")
    host.leave(2.0)
    assert host.takes("old")


def test_a_heartbeat_shows_that_a_host_is_there_after_all() -> None:
    host = Host(name="a")
    host.greet(Hello(host="a", incarnation="1", slots=1), 0.0)
    host.leave(1.0)
    host.hear(Beat(host="a", incarnation="1", attempt=3), 2.0)
    assert host.here
    assert host.running == 3
