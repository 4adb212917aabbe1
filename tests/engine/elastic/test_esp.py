"""The steps of elastic sequence parallelism, on the fleet of LoongServe's evaluation."""

from __future__ import annotations

import time
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.elastic.allocation import allocate
from engine.elastic.dispatch import join_decodes, with_room
from engine.elastic.draft import Draft
from engine.elastic.esp import ElasticSequenceParallelism
from engine.elastic.filling import fill
from engine.elastic.information_base import InformationBase
from engine.elastic.manager import Manager
from engine.elastic.outlook import Outlook
from engine.elastic.pace import Pace
from engine.elastic.scaling import scale_down, scale_up
from engine.elastic.snapshot import Decoding, Instance, Snapshot, Waiting
from engine.scheduling.fcfs import FirstComeFirstServed
from engine.simulation.fleet.set_up import loongserve_set_up
from engine.simulation.fleet.simulator import FleetSimulator
from engine.simulation.serve.workload import find_workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.elastic.iteration import GroupIteration

SET_UP = loongserve_set_up()
BASE = SET_UP.base
NOW = 1_000.0
SLOTS = 210_000


def instance(
    number: int, decodes: int = 0, each: int = 2_000, *, free: int | None = None, busy_s: float = 0
) -> Instance:
    """With so many decodes of so many tokens."""
    return Instance(
        number=number,
        free=SLOTS - decodes * each if free is None else free,
        slots=SLOTS,
        idle=not busy_s,
        ends_s=NOW + busy_s,
        decodes=decodes,
        context=decodes * each,
        urgency=decodes / each,
        bound=frozenset((number,)),
    )


def waiting(
    number: int, prompt: int, held: Sequence[tuple[int, int]] = (), waited_s: float = 0.1
) -> Waiting:
    cached = sum(tokens for _, tokens in held)
    return Waiting(
        number=number,
        cached=cached,
        due=prompt - cached,
        held=tuple(held),
        arrived_s=NOW - waited_s,
        generated=0,
        room=prompt + 30,
    )


def fleet(instances: Sequence[Instance], requests: Iterable[Waiting] = ()) -> Snapshot:
    by_number = {each.number: each for each in instances}

    def decoding(master: int) -> tuple[Decoding, ...]:
        one = by_number[master]
        each = one.context // one.decodes if one.decodes else 0
        return tuple(
            Decoding(1_000 * (master + 1) + index, each + 1, ((master, each),))
            for index in range(one.decodes)
        )

    return Snapshot(now=NOW, waiting=tuple(requests), instances=tuple(instances), decoding=decoding)


def seen(snapshot: Snapshot, base: InformationBase = BASE) -> tuple[Outlook, Draft]:
    return Outlook(snapshot, base, Pace()), Draft(snapshot)


# -- 1: dispatch ---


@given(
    prompts=st.lists(st.integers(1, SLOTS), min_size=1, max_size=20),
    begun=st.lists(st.integers(2, SLOTS // 2), max_size=3),
    decodes=st.integers(0, 50),
)
@settings(max_examples=100, deadline=None)
def test_whoever_is_dispatched_fits_beside_what_all_others_need_yet(
    prompts: list[int], begun: list[int], decodes: int
) -> None:
    held = [waiting(100 + n, tokens, [(n, tokens // 2)]) for n, tokens in enumerate(begun)]
    used = {n: tokens // 2 for n, tokens in enumerate(begun)}
    instances = [
        instance(n, decodes if n == 3 else 0, free=SLOTS - used.get(n, 0)) for n in range(4)
    ]
    outlook, draft = seen(
        fleet(instances, [*held, *(waiting(n, each) for n, each in enumerate(prompts))])
    )
    found = with_room(outlook, draft)
    fresh = [each for each in found if not each.has_begun]
    assert {each.number for each in held} <= {each.number for each in found}
    need = sum(each.room for each in fresh) + sum(each.due + each.growth for each in held)
    assert need + decodes <= sum(each.free for each in instances) or not (held or decodes)
    weighed = [outlook.alone_s[each.number] / outlook.weight[each.number] for each in found]
    assert weighed == sorted(weighed), "Smith's rule"


def test_nobody_is_overtaken_for_ever() -> None:
    patient = waiting(0, 800_000, waited_s=60.0)
    starving = waiting(0, 800_000, waited_s=1e9)
    others = [waiting(1, 100), waiting(2, 60_000, [(0, 100)])]
    instances = [instance(n, 10) for n in range(4)]
    for first, dispatched in ((patient, {1, 2}), (starving, {2})):
        outlook, draft = seen(fleet(instances, [first, *others]))
        outlook.order.sort(key=lambda each: each.number)
        assert {each.number for each in with_room(outlook, draft)} == dispatched


def test_short_prompts_go_to_the_instances_with_the_least_load() -> None:
    instances = [instance(0, 40, 300), instance(1, 10, 300), instance(2, 40, 300)]
    outlook, draft = seen(fleet(instances, [waiting(n, 60) for n in range(3)]))
    joined = join_decodes(outlook.order, outlook, draft)
    assert not joined.left
    assert [(unit.instances, len(each)) for unit, each in joined.beside.items()] == [((1,), 3)]


# -- 2: allocation ---


def test_urgent_decodes_are_not_disturbed_for_a_long_prompt() -> None:
    instances = [instance(0), instance(1), instance(2, 20, 200)]
    outlook, draft = seen(fleet(instances, [waiting(0, 100_000)]))
    allocation = allocate(outlook.order, outlook, draft, [])
    assert [each.instances for each in allocation.units] == [(0,), (1,)]


def test_decodes_gather_on_one_instance_where_that_frees_another_for_prompts() -> None:
    instances = [instance(0, 3), instance(1, 5), instance(2, busy_s=0.2), instance(3, busy_s=0.2)]
    snapshot = fleet(instances, [waiting(n, 8_000) for n in range(30)])
    outlook, draft = seen(snapshot)
    (drain,) = allocate(outlook.order, outlook, draft, []).drains
    moved = snapshot.decoding(0)
    assert drain.instances == (0, 1)
    assert drain.masters == tuple((each.number, 1) for each in moved)
    assert [(each.number, each.source, each.target, each.tokens) for each in drain.transfers] == [
        (each.number, 0, 1, 2_000) for each in moved
    ]


def test_they_do_not_over_a_link_that_is_too_slow() -> None:
    slow = InformationBase(
        {dop: BASE.latency(dop) for dop in (1, 2, 4)},
        kv_bytes_per_token=10**6,
        link_bytes_per_s=1e9,
    )
    instances = [instance(0, 3), instance(1, 5), instance(2, busy_s=0.2), instance(3, busy_s=0.2)]
    outlook, draft = seen(fleet(instances, [waiting(n, 8_000) for n in range(30)]), slow)
    assert allocate(outlook.order, outlook, draft, []).drains == []


# -- 3: batching and slices ---


def test_a_long_prompt_alone_gets_all_instances_for_a_slice_and_is_kept_by_one() -> None:
    policy = ElasticSequenceParallelism(BASE, prefill_tokens=65_536)
    (made,) = policy.decide(fleet([instance(n) for n in range(4)], [waiting(0, 100_000)]))
    (chunk,) = made.chunks
    assert made.dop == 4
    assert len(chunk.keep) == 1
    assert 0.7 * Pace().slice_s < BASE.prefill_s(4, [chunk.tokens]) < 1.3 * Pace().slice_s


def test_a_short_prompt_overtakes_a_long_one_between_its_slices() -> None:
    long = waiting(0, 100_000, [(0, 20_000)])
    policy = ElasticSequenceParallelism(BASE, prefill_tokens=8_192)
    instances = [instance(0, free=SLOTS - 20_000)]
    (made,) = policy.decide(fleet(instances, [long, waiting(1, 500)]))
    assert made.chunks[0].number == 1


@given(
    prompts=st.lists(st.integers(1, 60_000), min_size=1, max_size=8), slots=st.integers(1, SLOTS)
)
@settings(max_examples=100, deadline=None)
def test_a_slice_is_no_longer_than_it_may_be(prompts: list[int], slots: int) -> None:
    instances = [instance(0, free=slots), instance(1, free=0)]
    outlook, draft = seen(fleet(instances, [waiting(n, each) for n, each in enumerate(prompts)]))
    made = fill(outlook.units, outlook.order, outlook, draft, most_tokens=8_192, slice_s=0.2)
    assert made is not None
    tokens = [each.tokens for each in made.chunks]
    assert sum(tokens) <= min(slots, 2 * 8_192)
    assert sum(BASE.latency(2).added_s(each) for each in tokens) <= 1.25 * 0.2
    cut = [each for each in made.chunks if each.tokens < prompts[each.number]]
    assert len(cut) <= 1, "all but the last are whole"


# -- 4: scaling ---


def test_the_fewest_instances_keep_a_prompt_and_of_these_the_fullest() -> None:
    frees = (100, 50_000, 9_000, 8_000)
    outlook, draft = seen(fleet([instance(n, free=free) for n, free in enumerate(frees)]))

    def keeps(tokens: int) -> dict[int, int]:
        request = waiting(0, tokens)
        order = scale_down(request, tokens, (0, 1, 2, 3), outlook, draft, finishes=True)
        part = draft.part(request, (0, 1, 2, 3))
        return dict(draft.chunk(request, part, tokens, order).keep)

    assert keeps(5_000) == {3: 5_000}
    assert keeps(8_500) == {2: 8_500}
    assert keeps(52_000) == {1: 50_000, 3: 2_000}


def test_who_is_short_of_slots_gives_whole_requests_to_who_has_most_room() -> None:
    full = instance(0, 10, free=4)
    outlook, draft = seen(fleet([full, instance(1, 90), instance(2, 3)]))
    (scaled,) = scale_up(outlook, draft)
    assert scaled.assignment is not None
    assert scaled.assignment.instances == (0, 2)
    assert [each.target for each in scaled.assignment.transfers] == [2]
    assert [master for _, master in scaled.assignment.masters] == [2]
    busy = instance(2, 3, busy_s=0.1)
    (scaled,) = scale_up(*seen(fleet([full, instance(1, 104), busy])))
    assert scaled.assignment is None, "it waits"
    assert not scale_up(*seen(fleet([instance(0, 10), instance(1)])))


def test_who_has_all_slots_of_an_instance_gets_another_master_and_nothing_moves() -> None:
    full = instance(0, 1, each=SLOTS)
    (scaled,) = scale_up(*seen(fleet([full, instance(1)])))
    assert scaled.assignment is not None
    assert [master for _, master in scaled.assignment.masters] == [1]
    assert not scaled.assignment.transfers


def test_too_many_decodes_get_another_master_and_nothing_moves() -> None:
    many = instance(0, 200, each=300)
    (scaled,) = scale_up(*seen(fleet([many, instance(1, 150, each=300), instance(2, 3)])))
    assert scaled.assignment is not None
    assert scaled.assignment.instances == (0, 2)
    assert [master for _, master in scaled.assignment.masters] == [2] * 100
    assert not scaled.assignment.transfers


# -- all of them ---


def serve(name: str, rate: float, requests: int) -> list[GroupIteration]:
    begun: list[GroupIteration] = []
    manager = Manager(
        ElasticSequenceParallelism(BASE, prefill_tokens=8_192),
        FirstComeFirstServed(),
        BASE,
        slots=SET_UP.slots,
        max_batch=SET_UP.max_batch,
    )
    workload = find_workload(name, rate=rate, requests=requests)
    FleetSimulator(manager, workload, began=lambda each, _: begun.append(each)).run()
    return begun


def test_on_short_requests_it_becomes_replicas() -> None:
    begun = serve("sharegpt-like", 40.0, 200)
    assert sum(each.dop == 1 for each in begun) > 0.97 * len(begun)
    shares = Counter(each.instances[0] for each in begun for _ in each.work)
    assert max(shares.values()) < 1.5 * min(shares.values())


def test_on_long_ones_it_has_groups_of_all_sizes_and_decodes_apart_from_prompts() -> None:
    begun = serve("leval-like", 1.5, 60)
    assert {each.dop for each in begun} >= {1, 2, 4}
    prompts = [each for each in begun if any(work.tokens > 1 for work in each.work)]
    disturbed = [each for each in prompts if any(work.tokens == 1 for work in each.work)]
    assert len(disturbed) < 0.5 * len(prompts)


@pytest.mark.alone
def test_a_decision_for_a_thousand_prompts_and_64_instances_takes_milliseconds() -> None:
    """5 ms on a quiet machine; this one may be four times as slow."""
    drawn = find_workload("mixed", requests=1_000)
    requests = [waiting(n, each.prompt_tokens) for n, each in enumerate(drawn.requests)]
    snapshot = fleet([instance(n, n % 7) for n in range(64)], requests)
    times = []
    for _ in range(9):
        policy = ElasticSequenceParallelism(BASE, prefill_tokens=8_192)
        begun = time.process_time()
        policy.decide(snapshot)
        times.append(time.process_time() - begun)
    assert median(times) < 0.02
