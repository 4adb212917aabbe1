"""``opsuite simulate serve``: the schedulers that decide for a live engine, in simulated time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from collectors.errors import UsageError
from opsuite.cli.simulate_fleet import (
    FleetOptions,
    all_of_fleets,
    check_options,
    compare_fleets,
    is_fleet,
    make_set_up,
)
from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.simulation.serve.costs import ServingCosts
    from engine.simulation.serve.metrics import Metrics
    from engine.simulation.serve.request import Workload
    from engine.simulation.serve.set_up import SetUp

_GB = 10**9
_DEFAULT = ("fcfs", "skip-join-mlfq")
_NO_RATE = "give WORKLOAD@RATE, or --load"


def serve(
    trace: Annotated[
        str, typer.Option(metavar="FILE|WORKLOAD[@RATE]", help="Requests, and how many a second.")
    ],
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Which to compare. [default: fcfs,skip-join-mlfq, or all of fleets]",
        ),
    ] = None,
    costs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A profile. [default: OPT-13B on an A100]"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Of --costs. [default: its first]")] = None,
    tp: Annotated[int | None, typer.Option(min=1, help="Of --costs. [default: lowest]")] = None,
    instances: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="A fleet of so many. [default: one engine, or 4]"),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="Sequences at once. [default: 16; fleets: any]"),
    ] = None,
    kv_tokens: Annotated[
        int | None,
        typer.Option(
            min=16,
            max=10**10,
            help="Keys and values on the device, or on an instance. [default: 14000; 210000]",
        ),
    ] = None,
    kv_bytes: Annotated[
        int | None, typer.Option(min=1, help="Of a token. [default: as --costs says, or 819200]")
    ] = None,
    swap_gb: Annotated[
        float | None, typer.Option(min=0, max=1e6, help="Of the host's memory. [default: 128]")
    ] = None,
    link_gb_s: Annotated[
        float | None,
        typer.Option(min=0.001, max=1e6, help="To the host, or an instance. [default: 25]"),
    ] = None,
    make_room: Annotated[
        Literal["recompute", "reactive", "proactive"] | None,
        typer.Option(help="Of preempted jobs' memory. [default: each policy's own]"),
    ] = None,
    prefill_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of prompts in one iteration. [default: all]")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, max=5_000_000, help="[default: 5000, or all of FILE]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    cv: Annotated[
        float, typer.Option(min=0.1, max=100, help="Of drawn arrivals' gaps; 1: Poisson.")
    ] = 1.0,
    load: Annotated[
        float | None, typer.Option(min=0.001, max=100, help="Instead of @RATE: of FCFS's capacity.")
    ] = None,
    drain: Annotated[
        float | None,
        typer.Option(
            min=0, max=1000, help="Longest, after the last arrival: of the span. [default: 0.1]"
        ),
    ] = None,
    traces: Annotated[
        Path | None, typer.Option(metavar="DIRECTORY", help="Of Azure's and Mooncake's traces.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare serving policies on one workload, by the scheduler that a live engine has.

    The set-up is FastServe's unless told: OPT-13B on an A100, 14,000 tokens of keys and values.
    Capacity is FCFS's requests a second when all arrive at once. Policies of fleets (esp,
    replicas, static-sp, tp, chunked, chunked-short-first, disaggregated, ...) have LoongServe's: 4
    instances of 2 A800s. docs/simulation.md says what is modelled.
    """
    names = _names(policy, instances)
    drawn = Drawn(trace=trace, requests=requests, seed=seed, cv=cv, traces=traces)
    if is_fleet(names, instances):
        check_options(
            {
                "--model": model,
                "--kv-bytes": kv_bytes,
                "--swap-gb": swap_gb,
                "--make-room": make_room,
                "--prefill-tokens": prefill_tokens,
                "--load": load,
                "--drain": drain,
            }
        )
        options = FleetOptions(
            instances=instances,
            tp=tp,
            costs=costs,
            max_batch=max_batch,
            kv_tokens=kv_tokens,
            link_gb_s=link_gb_s,
        )
        _print_fleets(options, names, drawn, json=json)
        return
    set_up = _set_up(
        read_costs(costs, model, tp),
        max_batch=max_batch,
        kv_tokens=kv_tokens,
        kv_bytes_per_token=kv_bytes,
        swap_bytes=None if swap_gb is None else int(swap_gb * _GB),
        link_bytes_per_s=None if link_gb_s is None else link_gb_s * _GB,
        make_room=make_room,
        prefill_tokens=prefill_tokens,
        drain=drain,
    )
    _print_engines(set_up, names, drawn, load, json=json)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Which requests, as given on the command line."""

    trace: str
    requests: int | None
    seed: int
    cv: float
    traces: Path | None


def _set_up(read: ServingCosts, **given: Any) -> SetUp:  # noqa: ANN401 - as SetUp has them
    """With what is given; None: the set-up's own, or the costs'."""
    from engine.scheduling.limits import MakeRoom
    from engine.simulation.serve.set_up import KV_BYTES_PER_TOKEN, SetUp

    given["kv_bytes_per_token"] = (
        given["kv_bytes_per_token"] or read.kv_bytes_per_token or KV_BYTES_PER_TOKEN
    )
    if given["make_room"] is not None:
        given["make_room"] = MakeRoom(given["make_room"])
    told = {name: value for name, value in given.items() if value is not None}
    return SetUp(costs=read, **told)


def _print_engines(
    set_up: SetUp, names: Sequence[str], drawn: Drawn, load: float | None, *, json: bool
) -> None:
    from engine.simulation.serve.comparison import check_policy
    from opsuite.simulated_serving import Compared, document, tables

    for name in names:
        check_policy(name)
    workload = _workload(drawn, set_up.kv_tokens // 16 * 16, load)
    capacity = None
    if load is not None:
        capacity, workload = _loaded(set_up, workload, load)
    compared = Compared(
        set_up=set_up,
        workload=workload,
        seed=drawn.seed,
        capacity=capacity,
        metrics=_simulate(set_up, names, workload),
    )
    if json:
        print_json(document(compared))
    else:
        print_data(tables(compared))


def _print_fleets(options: FleetOptions, names: Sequence[str], drawn: Drawn, *, json: bool) -> None:
    from engine.simulation.fleet.engines import fitting_tokens
    from engine.simulation.fleet.policies import find_fleet_policy
    from opsuite.simulated_fleet import document, tables

    for name in names:
        find_fleet_policy(name)
    set_up = make_set_up(options)
    workload = _workload(drawn, fitting_tokens(set_up, set_up.instances), None)
    compared = compare_fleets(set_up, names, workload, drawn.seed)
    if json:
        print_json(document(compared))
    else:
        print_data(tables(compared))


def read_costs(path: Path | None, model: str | None, tp: int | None) -> ServingCosts:
    """Of the file, or of OPT-13B where there is none.

    Raises:
        UsageError: no file is given, and none lies beside this checkout.
    """
    from engine.simulation.serve.costs import read_serving_costs
    from opsuite.shared_data import COSTS, find_shared

    path = path or find_shared(COSTS)
    if path is None:
        raise UsageError(
            f"shared/{COSTS} is not here or above",
            where="--costs",
            remedy="give a profile: --costs FILE",
        )
    return read_serving_costs(path, model, tp)


def _names(text: str | None, instances: int | None) -> list[str]:
    if text is None:
        return list(_DEFAULT) if instances is None else all_of_fleets()
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError("it names no policy", where="--policy", remedy="such as fcfs,mlfq")
    return names


def _workload(drawn: Drawn, longest: int, load: float | None) -> Workload:
    """Without the requests that are longer than so many tokens."""
    from engine.simulation.serve.lengths import LENGTHS
    from engine.simulation.serve.workload import find_workload, parse_workload
    from opsuite.shared_data import find_shared

    name, rate = parse_workload(drawn.trace)
    if rate is not None and load is not None:
        raise UsageError("a rate and a load", where="--trace, --load", remedy="give one of both")
    if rate is None and load is None and (name in LENGTHS or name.startswith("azure-")):
        raise UsageError(f"{name} has no rate", where="--trace", remedy=f"{_NO_RATE}: {name}@2")
    found = find_workload(
        name,
        rate=rate,
        requests=drawn.requests,
        seed=drawn.seed,
        cv=drawn.cv,
        traces=drawn.traces or find_shared("traces"),
    ).fitting(longest)
    if not found.requests:
        raise UsageError(
            f"no request of {found.name} fits into {longest:,} tokens",
            where="--kv-tokens",
            remedy="allow more",
        )
    if found.dropped:
        narrate(f"{found.dropped:,} requests are too long for --kv-tokens and left out")
    return found


def _loaded(set_up: SetUp, workload: Workload, load: float) -> tuple[float, Workload]:
    from engine.simulation.serve.comparison import capacity

    narrate("the capacity of FCFS ...")
    found = capacity(set_up, workload)
    try:
        return found, workload.scaled(load * found)
    except ValueError as error:
        raise UsageError(
            f"{workload.name} cannot have a load: {error}", where="--load", remedy="leave it out"
        ) from error


def _simulate(set_up: SetUp, names: Sequence[str], workload: Workload) -> list[Metrics]:
    from engine.simulation.serve.comparison import simulate
    from engine.simulation.serve.metrics import measure

    found = []
    for name in names:
        narrate(f"{name} ...")
        found.append(measure(simulate(set_up, name, workload)))
    return found
