"""Pairing and judging: one bad host or link among any number of hosts is named, and nobody else."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbooks.checks.pairs import (
    Pair,
    PairOutcome,
    compare,
    judge_pairs,
    retest,
    rounds_of_pairs,
)


def names(count: int) -> list[str]:
    return [f"host{index}" for index in range(count)]


def run(
    pairs: list[Pair], bad_hosts: frozenset[str], bad_link: frozenset[str] = frozenset()
) -> list[PairOutcome]:
    """What the tests of these pairs give when hosts and a link are bad."""
    return [
        PairOutcome(pair=pair, good=not bad_hosts & set(pair) and bad_link != set(pair))
        for pair in pairs
    ]


def all_pairs(hosts: list[str]) -> list[Pair]:
    return [pair for pairs in rounds_of_pairs(hosts) for pair in pairs]


@pytest.mark.parametrize("count", range(2, 13))
def test_every_host_meets_two_partners_and_no_two_at_once(count: int) -> None:
    hosts, rounds = names(count), rounds_of_pairs(names(count))
    for pairs in rounds:
        met = [host for pair in pairs for host in pair]
        assert len(met) == len(set(met))
    assert len(rounds) == {0: 2, 1: 3}[count % 2] if count > 2 else 1
    partners = {host: {h for p in all_pairs(hosts) if host in p for h in p} for host in hosts}
    assert all(len(met) == min(count, 3) for met in partners.values())


@pytest.mark.parametrize("count", range(3, 13))
def test_one_bad_host_is_named_and_nothing_else(count: int) -> None:
    hosts = names(count)
    for bad in hosts:
        judged = judge_pairs(hosts, run(all_pairs(hosts), frozenset({bad})))
        assert judged.bad_hosts == (bad,)
        assert not judged.bad_links
        assert judged.conclusive


@pytest.mark.parametrize("count", range(3, 13))
def test_one_bad_link_is_named_and_no_host(count: int) -> None:
    hosts = names(count)
    for link in all_pairs(hosts):
        judged = judge_pairs(hosts, run(all_pairs(hosts), frozenset(), frozenset(link)))
        assert judged.bad_links == (link,)
        assert not judged.bad_hosts
        assert judged.conclusive


@given(count=st.integers(2, 12), data=st.data())
def test_no_healthy_host_is_ever_named(count: int, data: st.DataObject) -> None:
    """However many are bad, after the rounds and after any number of further ones."""
    hosts = names(count)
    bad = frozenset(data.draw(st.sets(st.sampled_from(hosts))))
    outcomes = run(all_pairs(hosts), bad)
    while further := retest(hosts, outcomes):
        assert set(judge_pairs(hosts, outcomes).bad_hosts) <= bad
        outcomes += run(further, bad)
    judged = judge_pairs(hosts, outcomes)
    assert set(judged.bad_hosts) <= bad
    assert not judged.bad_links
    assert bad <= {*judged.bad_hosts, *judged.suspects}


@given(count=st.integers(5, 12), data=st.data())
def test_several_bad_hosts_are_found_where_two_good_neighbours_and_one_more_are_left(
    count: int, data: st.DataObject
) -> None:
    hosts = names(count)
    start = data.draw(st.integers(0, count - 3))
    others = hosts[:start] + hosts[start + 3 :]
    bad = frozenset(data.draw(st.sets(st.sampled_from(others))))
    outcomes = run(all_pairs(hosts), bad)
    while further := retest(hosts, outcomes):
        met = [host for pair in further for host in pair]
        assert len(met) == len(set(met))
        outcomes += run(further, bad)
    judged = judge_pairs(hosts, outcomes)
    assert set(judged.bad_hosts) == bad
    assert judged.conclusive


@given(count=st.integers(4, 12), data=st.data())
def test_a_bad_host_and_a_bad_link_name_no_healthy_host(count: int, data: st.DataObject) -> None:
    hosts = names(count)
    bad = data.draw(st.sampled_from(hosts))
    link = frozenset(data.draw(st.sampled_from(all_pairs(hosts))))
    judged = judge_pairs(hosts, run(all_pairs(hosts), frozenset({bad}), link))
    assert set(judged.bad_hosts) <= {bad}


def test_too_few_hosts_are_said_to_be_inconclusive() -> None:
    assert rounds_of_pairs([]) == rounds_of_pairs(["a"]) == []
    assert judge_pairs(["a"], []).untested == ("a",)
    failed = judge_pairs(["a", "b"], run([("a", "b")], frozenset({"a"})))
    assert (failed.suspects, failed.bad_hosts, failed.conclusive) == (("a", "b"), (), False)
    assert not retest(["a", "b"], run([("a", "b")], frozenset({"a"})))
    assert judge_pairs(["a", "b"], run([("a", "b")], frozenset())).conclusive


def test_neighbours_that_are_both_bad_are_suspects_until_they_meet_others() -> None:
    hosts = names(6)
    for bad in (frozenset(pair) for pair in pairwise(hosts)):
        outcomes = run(all_pairs(hosts), bad)
        assert set(judge_pairs(hosts, outcomes).suspects) == bad
        outcomes += run(retest(hosts, outcomes), bad)
        assert set(judge_pairs(hosts, outcomes).bad_hosts) == bad


def test_without_baseline_pairs_are_compared_with_their_median() -> None:
    hosts = names(6)
    pairs = list(combinations(hosts, 2))[:4]
    outcomes = compare(dict(zip(pairs, [10.0, 11.0, 5.0, None], strict=True)))
    assert [outcome.good for outcome in outcomes] == [True, True, False, False]
    few = compare(dict(zip(pairs[:2], [10.0, 1.0], strict=True)))
    assert all(outcome.good for outcome in few)
