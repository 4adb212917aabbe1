"""Policies of fleets: whatever comes, what they decide can be carried out, and everybody ends."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors.errors import UsageError
from engine.elastic.fleet_profile import FleetProfile
from engine.elastic.information_base import InformationBase
from engine.elastic.manager import Manager
from engine.elastic.registry import FLEET_POLICIES, make_fleet_policy
from engine.profiles.latency import latency_of
from engine.scheduling.registry import Knowledge, make_policy
from engine.scheduling.short_first import ShortFirst
from engine.simulation.fleet.simulator import FleetSimulator
from engine.simulation.serve.request import Request, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.elastic.assignment import Assignment
    from engine.elastic.fleet_policy import FleetPolicy
    from engine.elastic.iteration import GroupIteration
    from engine.elastic.snapshot import Snapshot
    from engine.scheduling.policy import Policy

ELASTIC = tuple(name for name in FLEET_POLICIES if name != "replicas")


def base_of(
    prefill: tuple[float, float, float] = (0.01, 1e-4, 1e-9),
    decode: tuple[float, float, float] = (0.01, 1e-7, 1e-5),
    link: float = 1e6,
) -> InformationBase:
    return InformationBase(
        {1: latency_of(prefill, decode)}, kv_bytes_per_token=1, link_bytes_per_s=link
    )


class Checked:
    """A policy whose every decision is looked at."""

    def __init__(self, fleet: FleetPolicy) -> None:
        self.name = fleet.name
        self._fleet = fleet
        self._begun = False
        self.widest = 0

    def decide(self, snapshot: Snapshot) -> Sequence[Assignment]:
        made = list(self._fleet.decide(snapshot))
        check(snapshot, made)
        assert made == list(self._fleet.decide(snapshot)), "a function of the snapshot"
        self._begun = bool(made)
        self.widest = max([self.widest, *(each.dop for each in made)])
        return made

    def holds(self, snapshot: Snapshot) -> frozenset[int]:
        held = self._fleet.holds(snapshot)
        busy = any(not each.idle for each in snapshot.instances)
        assert held <= {each.number for each in snapshot.idle}
        work = snapshot.waiting or any(each.decodes for each in snapshot.instances)
        assert busy or self._begun or not held or not work, "who is held waits for somebody"
        return held


def check(snapshot: Snapshot, made: Sequence[Assignment]) -> None:
    """AssertionError: it cannot be carried out."""
    idle = {each.number for each in snapshot.idle}
    taken = [each for one in made for each in one.instances]
    assert len(taken) == len(set(taken)), "groups are disjoint"
    assert idle.issuperset(taken), "of idle instances"
    waiting = {each.number: each for each in snapshot.waiting}
    chunks = [(chunk, one) for one in made for chunk in one.chunks]
    assert len({chunk.number for chunk, _ in chunks}) == len(chunks), "one chunk of each request"
    free = {each.number: each.free for each in snapshot.instances}
    for one in made:
        assert one.instances == tuple(sorted(one.instances))
        for move in one.transfers:
            assert {move.source, move.target} <= set(one.instances)
            free[move.target] -= move.tokens
            free[move.source] += move.tokens
        assert len(one.chunks) <= snapshot.max_batch * one.dop
    for chunk, one in chunks:
        request = waiting[chunk.number]
        kept = {each for each, _ in chunk.keep}
        assert kept <= set(one.instances), "kept within the group"
        assert sum(tokens for _, tokens in chunk.keep) == chunk.tokens > 0
        assert all(tokens > 0 for _, tokens in chunk.keep)
        assert chunk.tokens <= (request.known if chunk.fresh else request.due)
        if request.has_begun:
            assert {each for each, _ in request.held} <= set(one.instances), "with all holders"
        for each, tokens in chunk.keep:
            free[each] -= tokens
    assert all(each >= 0 for each in free.values()), "memory is not exceeded"


def serve(
    name: str,
    requests: Sequence[tuple[float, int, int]],
    *,
    instances: int = 3,
    slots: int = 200,
    base: InformationBase | None = None,
    order: Policy | None = None,
    max_batch: int = 8,
    prefill_tokens: int = 64,
) -> tuple[Checked, list[GroupIteration]]:
    """To the end; requests are (arrival, prompt, output)."""
    known = base or base_of()
    fleet = Checked(make_fleet_policy(name, known, prefill_tokens=prefill_tokens))
    manager = Manager(
        fleet,
        order or ShortFirst(),
        known,
        slots=dict.fromkeys(range(instances), slots),
        max_batch=max_batch,
    )
    begun: list[GroupIteration] = []
    workload = Workload(
        name="drawn",
        requests=tuple(
            Request(arrival_s=at, prompt_tokens=prompt, output_tokens=output)
            for at, prompt, output in sorted(requests)
        ),
    )
    outcome = FleetSimulator(
        manager, workload, began=lambda iteration, _: begun.append(iteration)
    ).run()
    assert not outcome.unfinished
    assert not len(manager)
    assert all(manager.pools.free[each] == slots for each in range(instances)), "nothing is left"
    return fleet, begun


@st.composite
def costs(draw: st.DrawFn) -> InformationBase:
    term = st.sampled_from((0.0, 0.03, 1.0))
    constant = draw(st.floats(1e-3, 0.1))
    prefill = (constant, draw(term) * 1e-3 + 1e-6, draw(term) * 1e-6)
    decode = (constant, draw(term) * 1e-5, draw(term) * 1e-3)
    return base_of(prefill, decode, draw(st.sampled_from((1e3, 1e6, 1e9))))


@st.composite
def workloads(draw: st.DrawFn, longest: int) -> list[tuple[float, int, int]]:
    span = draw(st.sampled_from((0.0, 0.5, 20.0)))
    lengths = st.integers(1, longest) | st.integers(1, max(1, longest // 10))
    request = st.tuples(st.floats(0, span), lengths, st.integers(1, 40))
    drawn = draw(st.lists(request, min_size=1, max_size=14))
    return [(at, prompt, min(output, longest + 1 - prompt)) for at, prompt, output in drawn]


@pytest.mark.parametrize("name", FLEET_POLICIES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_everybody_ends_and_every_decision_can_be_carried_out(
    name: str, data: st.DataObject
) -> None:
    """Memory is short on purpose: requests are dropped, and come again."""
    instances, slots = data.draw(st.integers(1, 4)), data.draw(st.sampled_from((40, 200)))
    parts = {"replicas": 1, "disaggregated": max(1, instances // 2)}.get(name, instances)
    base = data.draw(costs())
    orders = ("fcfs", "adaptive", "skip-join-mlfq", None)
    order = data.draw(st.sampled_from(orders))
    knowledge = Knowledge(profile=FleetProfile(base, instances))
    serve(
        name,
        data.draw(workloads(parts * slots - 1)),
        instances=instances,
        slots=slots,
        base=base,
        order=make_policy(order, knowledge) if order else None,
        max_batch=data.draw(st.sampled_from((1, 4, 100))),
        prefill_tokens=data.draw(st.sampled_from((1, 16, 1000))),
    )


def test_replicas_leave_a_request_where_it_is() -> None:
    requests = [(0.01 * number, 5 + 7 * number, 10) for number in range(8)]
    fleet, begun = serve("replicas", requests)
    homes: dict[int, set[int]] = {}
    for one in begun:
        for work in one.work:
            homes.setdefault(work.job.number, set()).update(one.instances)
    assert fleet.widest == 1
    assert all(len(home) == 1 for home in homes.values())
    assert set().union(*homes.values()) == {0, 1, 2}, "all of them are used"


def test_static_sequence_parallelism_is_one_group_always() -> None:
    _, begun = serve("static-sp", [(0.1 * number, 20, 10) for number in range(8)])
    assert {one.instances for one in begun} == {(0, 1, 2)}


def test_disaggregated_prompts_and_answers_meet_only_to_pass_on() -> None:
    requests = [(0.3 * number, 30, 6) for number in range(12)]
    _, begun = serve("disaggregated", requests, instances=4)
    for one in begun:
        prompts = [work for work in one.work if work.first == 0]
        if one.transfers:
            assert one.instances == (0, 1, 2, 3)
            assert not prompts
        else:
            assert one.instances == ((0, 1) if prompts else (2, 3))
    assert sum(len(one.transfers) for one in begun) >= len(requests)


@pytest.mark.parametrize("name", ELASTIC)
def test_a_request_larger_than_an_instance_is_served(name: str) -> None:
    _, begun = serve(name, [(0.0, 90, 5)], instances=4, slots=50)
    holders = {each for one in islice(begun, 5) for keep in one.keep for each, _ in keep}
    assert len(holders) >= 2


def test_no_such_policy() -> None:
    with pytest.raises(UsageError, match="esp, replicas"):
        make_fleet_policy("best", base_of(), prefill_tokens=1)
