"""The dynamic programme of batches: as good as trying all ways, and fast."""

from __future__ import annotations

import time
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engine.elastic.batching import WINDOW, degrees, form_batches
from engine.elastic.information_base import InformationBase
from engine.elastic.snapshot import Waiting
from engine.profiles.latency import latency_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.elastic.batching import Batch

CASES = 1_000


def base_of(rng: np.random.Generator, *, most: int) -> InformationBase:
    """More instances are faster, though never by as much as there are more; each costs a bit."""
    constant, token, square = 0.02 * rng.random(), 1e-4 * rng.random(), 1e-8 * rng.random()
    ring = rng.random()
    latencies = {}
    for dop in range(1, most + 1):
        work = (1 + ring * (dop - 1) / dop) / dop
        prefill = (constant * (1 + 0.1 * dop), token * work, square * work)
        latencies[dop] = latency_of(prefill, (constant, 1e-8 * rng.random(), 0.0))
    return InformationBase(latencies, kv_bytes_per_token=1, link_bytes_per_s=1)


def waiting(
    number: int, prompt: int, held: tuple[tuple[int, int], ...] = (), arrived_s: float = 0.0
) -> Waiting:
    cached = sum(tokens for _, tokens in held)
    return Waiting(
        number=number,
        cached=cached,
        due=prompt - cached,
        held=held,
        arrived_s=arrived_s,
        generated=0,
        room=prompt + 16,
    )


def draw(rng: np.random.Generator) -> tuple[list[Waiting], dict[int, int], InformationBase]:
    """Few requests and instances; some have begun, and memory may be short."""
    instances = int(rng.integers(1, 5))
    free = {each: int(rng.integers(0, 4_000)) for each in range(instances)}
    requests = []
    for number in range(int(rng.integers(1, 6))):
        prompt = int(np.exp(rng.uniform(np.log(10), np.log(4_000))))
        holders = rng.permutation(instances)[: int(rng.integers(0, 3))]
        held = tuple((int(each), int(rng.integers(1, prompt // 3))) for each in holders)
        requests.append(waiting(number, prompt, held if rng.random() < 0.3 else ()))
    return requests, free, base_of(rng, most=instances)


def cost_of(batch: Sequence[Waiting], dop: int, base: InformationBase) -> float:
    """One after the other."""
    latency = base.latency(dop)
    seconds, cost = latency.prefill.constant, 0.0
    for each in batch:
        seconds += latency.added_s(each.due, each.cached)
        cost += seconds / each.known
    return cost


def possible(batch: Sequence[Waiting], group: Sequence[int], free: Mapping[int, int]) -> bool:
    need = sum(each.due if each.held else each.known for each in batch)
    held = {instance for each in batch for instance, _ in each.held}
    return held <= set(group) and need <= sum(free[each] for each in group)


def price(requests: Sequence[Waiting], base: InformationBase) -> float:
    """Seconds of delay of whoever waits."""
    alone = base.latency(1)
    work = sum(alone.added_s(each.due, each.cached) for each in requests)
    return 4.0 * (work + alone.prefill.constant)


def total(
    found: Sequence[Batch],
    requests: Sequence[Waiting],
    free: Mapping[int, int],
    base: InformationBase,
) -> float:
    """What a plan costs; it can be carried out."""
    taken = [each for batch in found for each in batch.instances]
    served = [each.number for batch in found for each in batch.requests]
    assert len(set(taken)) == len(taken)
    assert len(set(served)) == len(served)
    assert all(possible(batch.requests, batch.instances, free) for batch in found)
    cost = sum(cost_of(batch.requests, len(batch.instances), base) for batch in found)
    wait_s = price(requests, base)
    return cost + sum(wait_s / each.known for each in requests if each.number not in served)


def sorted_requests(requests: Sequence[Waiting], base: InformationBase) -> list[Waiting]:
    alone = base.latency(1)
    return sorted(requests, key=lambda r: (alone.added_s(r.due, r.cached) * r.known, r.number))


def neighbours(
    requests: list[Waiting],
    order: list[int],
    free: Mapping[int, int],
    base: InformationBase,
    wait_s: float,
) -> float:
    """The least that all ways to cut both rows into neighbours cost."""
    best = float("inf")
    for parts in cuts(requests):
        for batches in subsets(parts):
            served = [each for batch in batches for each in batch]
            waits = sum(wait_s / each.known for each in requests if each not in served)
            for groups in placed(len(batches), order):
                pairs = list(zip(batches, groups, strict=True))
                if all(possible(batch, group, free) for batch, group in pairs):
                    cost = sum(cost_of(batch, len(group), base) for batch, group in pairs)
                    best = min(best, waits + cost)
    return best


def subsets(parts: list[list[Waiting]]) -> Iterator[tuple[list[Waiting], ...]]:
    """Some of them, in order: the others wait."""
    for size in range(len(parts) + 1):
        yield from combinations(parts, size)


def cuts(items: list[Waiting]) -> Iterator[list[list[Waiting]]]:
    """All ways to cut a row."""
    if not items:
        yield []
    for size in range(1, len(items) + 1):
        for rest in cuts(items[size:]):
            yield [items[:size], *rest]


def placed(groups: int, order: list[int]) -> Iterator[list[list[int]]]:
    """So many groups of neighbours, in order, with gaps."""
    if not groups:
        yield []
        return
    for begin in range(len(order)):
        for end in range(begin + 1, len(order) + 1):
            for rest in placed(groups - 1, order[end:]):
                yield [order[begin:end], *rest]


def instance_order(requests: list[Waiting], free: Mapping[int, int]) -> list[int]:
    pins = {each: index for index, r in enumerate(requests) for each, _ in r.held}
    return sorted(free, key=lambda each: (pins.get(each, -1), free[each], each))


def test_no_way_to_cut_both_rows_is_better() -> None:
    rng = np.random.default_rng(9)
    batches = 0
    for _ in range(CASES):
        requests, free, base = draw(rng)
        found = form_batches(requests, free, base)
        row = sorted_requests(requests, base)
        best = neighbours(row, instance_order(row, free), free, base, price(requests, base))
        assert total(found, requests, free, base) == pytest.approx(best, rel=1e-9)
        batches += len(found)
    assert batches > CASES


def test_short_prompts_get_an_instance_of_their_own_and_one_long_one_gets_all() -> None:
    base = InformationBase(
        {dop: latency_of((0.005, 3e-5 / dop**0.5, 0.0), (0.005, 0.0, 0.0)) for dop in (1, 2, 3, 4)},
        kv_bytes_per_token=1,
        link_bytes_per_s=1,
    )
    free = dict.fromkeys(range(4), 200_000)
    alone = form_batches([waiting(0, 100_000)], free, base)
    assert [batch.instances for batch in alone] == [(0, 1, 2, 3)]
    alike = form_batches([waiting(number, 8_000) for number in range(4)], free, base)
    assert [len(batch.instances) for batch in alike] == [1, 1, 1, 1]


def test_beyond_the_window_requests_wait() -> None:
    rng = np.random.default_rng(0)
    requests = [waiting(number, 100) for number in range(2 * WINDOW)]
    found = form_batches(requests, {0: 10**6, 1: 10**6}, base_of(rng, most=2))
    assert sorted(r.number for batch in found for r in batch.requests) == list(range(WINDOW))


def test_degrees_are_all_small_ones_and_powers_of_two() -> None:
    assert degrees(3) == [1, 2, 3]
    assert degrees(8) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert degrees(12) == [1, 2, 4, 8]
    assert degrees(64) == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.alone
def test_a_thousand_prompts_on_64_instances_take_milliseconds() -> None:
    """5 ms on a quiet machine; this one may be four times as slow."""
    rng = np.random.default_rng(1)
    base = base_of(rng, most=64)
    free = dict.fromkeys(range(64), 100_000)
    requests = [
        waiting(number, int(np.exp(rng.uniform(np.log(100), np.log(100_000)))))
        for number in range(1_000)
    ]
    times = []
    for _ in range(9):
        begun = time.process_time()
        form_batches(requests, free, base)
        times.append(time.process_time() - begun)
    assert median(times) < 0.02
