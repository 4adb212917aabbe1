"""What elastic sequence parallelism is compared with: the same instances, used in fixed ways.

First come, first served as published, and all but one with short prompts first, too. Each has the
variants that a careful operator would try, of which the best counts: prompts whole or in chunks.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from engine.simulation.fleet.disaggregation import Halves, simulate_disaggregated
from engine.simulation.fleet.engines import Order, fitting_tokens, make_engine, run_engine
from engine.simulation.fleet.fleet_serving import FleetServing, Variant
from engine.simulation.fleet.replicas import simulate_replicas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engine.profiles.latency import Latency
    from engine.simulation.fleet.fleet_serving import Serve
    from engine.simulation.fleet.set_up import FleetSetUp
    from engine.simulation.serve.life import Outcome
    from engine.simulation.serve.request import Workload

CHUNKS = (2048, 4096, 8192, 16384, 1024, 512)  # the likeliest first
_FEW_CHUNKS = (None, 2048, 8192)


def _one_engine(latency: Callable[[FleetSetUp], Latency], order: Order, chunk: int | None) -> Serve:
    """With the memory of all instances."""

    def serve(workload: Workload, set_up: FleetSetUp) -> Outcome:
        return run_engine(
            partial(
                make_engine,
                set_up,
                latency(set_up),
                workload,
                instances=set_up.instances,
                order=order,
                chunk=chunk,
            )
        )

    return serve


def _replicas(order: Order, chunk: int | None) -> Serve:
    def serve(workload: Workload, set_up: FleetSetUp) -> Outcome:
        return simulate_replicas(set_up, workload, order=order, chunk=chunk)

    return serve


def _disaggregated(halves: Halves, order: Order, chunk: int | None) -> Serve:
    def serve(workload: Workload, set_up: FleetSetUp) -> Outcome:
        return simulate_disaggregated(set_up, workload, halves=halves, order=order, chunk=chunk)

    return serve


def _tensor_parallel(set_up: FleetSetUp) -> Latency:
    return set_up.split(1, set_up.devices)


def _sequence_parallel(set_up: FleetSetUp) -> Latency:
    return set_up.base.latency(set_up.instances)


def _variants(
    make: Callable[[int | None], Serve], chunks: Iterable[int | None] = _FEW_CHUNKS
) -> tuple[Variant, ...]:
    return tuple(Variant(name=_named(chunk), serve=make(chunk)) for chunk in chunks)


def _named(chunk: int | None) -> str:
    return "whole prompts" if chunk is None else f"chunks of {chunk:,}"


def _halved(order: Order) -> Iterable[Variant]:
    for prefill, decode in product((True, False), (False, True)):
        halves = Halves(prefill_in_instances=prefill, decode_in_instances=decode)
        split = " + ".join("SP" if each else "TP" for each in (prefill, decode))
        for chunk in (None,) if order is Order.FCFS else _FEW_CHUNKS:
            yield Variant(
                name=f"{split}, {_named(chunk)}", serve=_disaggregated(halves, order, chunk)
            )


def _all(set_up: FleetSetUp) -> int:
    return fitting_tokens(set_up, set_up.instances)


def _half(set_up: FleetSetUp) -> int:
    return fitting_tokens(set_up, set_up.instances // 2)


def _one(set_up: FleetSetUp) -> int:
    return fitting_tokens(set_up, 1)


def _baselines() -> Iterable[FleetServing]:
    yield FleetServing(
        name="tp",
        variants=(Variant(name="", serve=_one_engine(_tensor_parallel, Order.FCFS, None)),),
        longest=_all,
    )
    for order, suffix in ((Order.FCFS, ""), (Order.SHORT, "-short-first")):
        yield FleetServing(
            name=f"chunked{suffix}",
            variants=_variants(partial(_one_engine, _tensor_parallel, order), CHUNKS),
            longest=_all,
        )
        yield FleetServing(
            name=f"replicas{suffix}",
            variants=_variants(partial(_replicas, order)),
            longest=_one,
        )
        yield FleetServing(
            name=f"static-sp{suffix}",
            variants=_variants(partial(_one_engine, _sequence_parallel, order)),
            longest=_all,
        )
        yield FleetServing(
            name=f"disaggregated{suffix}", variants=tuple(_halved(order)), longest=_half
        )


BASELINES = tuple(_baselines())
