"""The baselines: whole, comparable with each other, and what their names say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from collectors.errors import UsageError
from engine.simulation.fleet.baselines import BASELINES
from engine.simulation.fleet.disaggregation import Halves, simulate_disaggregated
from engine.simulation.fleet.engines import Order, make_engine
from engine.simulation.fleet.policies import find_fleet_policy
from engine.simulation.fleet.replicas import simulate_replicas
from engine.simulation.fleet.set_up import loongserve_set_up
from engine.simulation.fleet.slo import measure_slowdown, unloaded_s
from engine.simulation.serve.request import Request, Workload
from engine.simulation.serve.workload import find_workload

if TYPE_CHECKING:
    from engine.simulation.fleet.fleet_serving import FleetServing, Variant
    from engine.simulation.serve.life import Outcome

SET_UP = loongserve_set_up()
VARIANTS = [(policy, variant) for policy in BASELINES for variant in policy.variants]


def workload(*requests: tuple[float, int, int]) -> Workload:
    return Workload(
        name="given",
        requests=tuple(
            Request(arrival_s=arrival, prompt_tokens=prompt, output_tokens=output)
            for arrival, prompt, output in requests
        ),
    )


def times(outcome: Outcome) -> list[tuple[float | None, float | None]]:
    return [(life.first_s, life.last_s) for life in outcome.lives]


@pytest.mark.parametrize(
    ("policy", "variant"), VARIANTS, ids=[f"{p.name}-{v.name}" for p, v in VARIANTS]
)
def test_every_variant_serves_every_request_to_its_end(
    policy: FleetServing, variant: Variant
) -> None:
    served = find_workload("mixed", rate=0.6, requests=40, seed=3).fitting(policy.longest(SET_UP))
    outcome = variant.serve(served, SET_UP)
    assert outcome.unfinished == 0
    assert [life.request for life in outcome.lives] == list(served.requests)
    for life in outcome.lives:
        assert life.first_s is not None
        assert life.last_s is not None
        assert life.request.arrival_s < life.first_s <= life.last_s <= outcome.end_s
    assert 0 < outcome.busy_s <= outcome.end_s + 1e-6


def test_requests_that_never_meet_take_on_all_devices_what_unloaded_means() -> None:
    served = workload((0.0, 7_000, 40), (1_000.0, 200_000, 1), (2_000.0, 10, 300))
    outcome = find_fleet_policy("tp")(served, SET_UP)
    taken = [life.last_s - life.request.arrival_s for life in outcome.lives if life.last_s]
    assert taken == pytest.approx(unloaded_s(SET_UP.whole, served.requests))
    found = measure_slowdown(outcome, SET_UP.whole)
    assert found.normalised_latency == pytest.approx(1)
    assert found.slowdown_p90 == pytest.approx(1)


def test_slowdowns_are_of_latencies_by_tokens_and_by_request() -> None:
    served = workload((0.0, 900, 100), (0.0, 30_000, 10))
    outcome = find_fleet_policy("tp")(served, SET_UP)
    alone = unloaded_s(SET_UP.whole, served.requests)
    for life, factor, alone_s in zip(outcome.lives, (3.0, 2.0), alone, strict=True):
        life.last_s = factor * float(alone_s)
    found = measure_slowdown(outcome, SET_UP.whole)
    by_token = alone / np.array([1_000, 30_010])
    assert found.normalised_latency == pytest.approx(
        (3 * by_token[0] + 2 * by_token[1]) / by_token.sum()
    )
    assert found.slowdown_p90 == pytest.approx(2.9)


@pytest.mark.parametrize("order", Order)
def test_one_replica_is_one_engine(order: Order) -> None:
    """Offering requests one by one changes no time by a bit."""
    single = replace(SET_UP, instances=1, kv_tokens=40_000)
    served = find_workload("leval-like", rate=0.4, requests=150, seed=1).fitting(40_000)
    whole = make_engine(
        single, SET_UP.base.latency(1), served, instances=1, order=order, chunk=2048, exact=True
    ).run()
    assert times(simulate_replicas(single, served, order=order, chunk=2048)) == times(whole)


def test_requests_that_come_together_go_to_different_replicas() -> None:
    served = workload(*((0.0, 5_000, 20) for _ in range(4)), (0.01, 5_000, 20))
    outcome = simulate_replicas(SET_UP, served, order=Order.FCFS, chunk=None)
    first = [life.first_s for life in outcome.lives]
    alone = SET_UP.base.latency(1).prefill_s(5_000)
    assert first[:4] == pytest.approx([alone] * 4)
    assert first[4] is not None
    assert first[4] > alone + SET_UP.base.latency(1).prefill.token * 5_000


@pytest.mark.parametrize("in_instances", [True, False])
def test_a_disaggregated_request_is_computed_passed_on_and_answered(*, in_instances: bool) -> None:
    halves = Halves(prefill_in_instances=in_instances, decode_in_instances=not in_instances)
    prefill, decode = halves.latencies(SET_UP)
    served = workload((5.0, 20_000, 3), (900.0, 10, 1))
    outcome = simulate_disaggregated(SET_UP, served, halves=halves, order=Order.FCFS, chunk=None)
    begun_s = 5 + prefill.prefill_s(20_000)
    token = decode.prefill.token - decode.small.sequence  # its first comes as a prefill of one
    answered_s = begun_s + SET_UP.base.transfer_s(20_000)
    answered_s += decode.decode_s(1, 20_000) + token + decode.decode_s(1, 20_002)
    assert times(outcome)[0] == pytest.approx((begun_s, answered_s))
    assert times(outcome)[1] == pytest.approx((900 + prefill.prefill_s(10),) * 2)


def test_a_short_prompt_overtakes_a_long_one_between_its_chunks() -> None:
    served = workload((0.0, 200_000, 10), (0.5, 300, 10))

    def first_s(order: Order) -> list[float | None]:
        engine = make_engine(SET_UP, SET_UP.whole, served, instances=4, order=order, chunk=2048)
        return [life.first_s for life in engine.run().lives]

    long_s, short_s = first_s(Order.SHORT)
    assert short_s is not None
    assert short_s < 0.5 + 0.2
    assert long_s is not None
    assert long_s > 5
    in_order = first_s(Order.FCFS)
    assert in_order[1] is not None
    assert in_order[1] > 5


def test_who_cannot_serve_the_longest_request_says_so() -> None:
    served = workload((0.0, 250_000, 10))
    with pytest.raises(UsageError, match="replicas cannot serve a request of 250,010 tokens"):
        find_fleet_policy("replicas")(served, SET_UP)
    find_fleet_policy("disaggregated").check(served, SET_UP)
    with pytest.raises(UsageError, match="no policy of fleets is named best"):
        find_fleet_policy("best")


def test_the_best_variant_is_the_one_that_serves() -> None:
    served = find_workload("leval-like", rate=1.5, requests=80, seed=0)
    policy = find_fleet_policy("chunked-short-first")
    figures = {
        each.name: measure_slowdown(each.serve(served, SET_UP), SET_UP.whole).normalised_latency
        for each in policy.variants
    }
    assert policy.tuned(served, SET_UP).name == min(figures, key=lambda name: figures[name])
    assert measure_slowdown(policy(served, SET_UP), SET_UP.whole).normalised_latency == min(
        figures.values()
    )


def test_who_starves_the_long_ones_until_the_end_does_not_keep_up() -> None:
    served = find_workload("leval-like", rate=6.0, requests=600, seed=0)
    found = measure_slowdown(find_fleet_policy("chunked-short-first")(served, SET_UP), SET_UP.whole)
    assert found.normalised_latency < 25
    assert not found.keeps_up
    slowly = find_fleet_policy("chunked-short-first")(served.scaled(0.8), SET_UP)
    assert measure_slowdown(slowly, SET_UP.whole).keeps_up
