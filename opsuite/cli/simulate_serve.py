"""``opsuite simulate serve``: the schedulers that decide for a live engine, in simulated time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from collectors.errors import UsageError
from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.simulation.serve.costs import ServingCosts
    from engine.simulation.serve.metrics import Metrics
    from engine.simulation.serve.request import Workload
    from engine.simulation.serve.set_up import SetUp

_GB = 10**9
_NO_RATE = "give WORKLOAD@RATE, or --load"


def serve(
    trace: Annotated[
        str, typer.Option(metavar="FILE|WORKLOAD[@RATE]", help="Requests, and how many a second.")
    ],
    policy: Annotated[
        str, typer.Option(metavar="A,B,...", help="Which to compare.")
    ] = "fcfs,skip-join-mlfq",
    costs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A profile. [default: OPT-13B on an A100]"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Of --costs. [default: its first]")] = None,
    tp: Annotated[int | None, typer.Option(min=1, help="Of --costs. [default: lowest]")] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=100_000, help="Sequences at once.")] = 16,
    kv_tokens: Annotated[
        int, typer.Option(min=16, max=10**10, help="Keys and values on the device.")
    ] = 14_000,
    kv_bytes: Annotated[
        int | None, typer.Option(min=1, help="Of a token. [default: as --costs says, or 819200]")
    ] = None,
    swap_gb: Annotated[float, typer.Option(min=0, max=1e6, help="Of the host's memory.")] = 128,
    link_gb_s: Annotated[float, typer.Option(min=0.001, max=1e6, help="To the host.")] = 25,
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
        float, typer.Option(min=0, max=1000, help="Longest, after the last arrival: of the span.")
    ] = 0.1,
    traces: Annotated[
        Path | None, typer.Option(metavar="DIRECTORY", help="Of Azure's and Mooncake's traces.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare serving policies on one workload, by the scheduler that a live engine has.

    The set-up is FastServe's unless told: OPT-13B on an A100, 14,000 tokens of keys and values.
    Capacity is FCFS's requests a second when all arrive at once. docs/simulation.md says what
    is modelled.
    """
    from engine.scheduling.limits import MakeRoom
    from engine.simulation.serve.set_up import KV_BYTES_PER_TOKEN, SetUp
    from opsuite.simulated_serving import Compared, document, tables

    read = read_costs(costs, model, tp)
    set_up = SetUp(
        costs=read,
        max_batch=max_batch,
        kv_tokens=kv_tokens,
        kv_bytes_per_token=kv_bytes or read.kv_bytes_per_token or KV_BYTES_PER_TOKEN,
        swap_bytes=int(swap_gb * _GB),
        link_bytes_per_s=link_gb_s * _GB,
        make_room=None if make_room is None else MakeRoom(make_room),
        prefill_tokens=prefill_tokens,
        drain=drain,
    )
    names = _policies(policy)
    workload = _workload(trace, set_up, requests, seed, cv, traces, load)
    capacity = None
    if load is not None:
        capacity, workload = _loaded(set_up, workload, load)
    compared = Compared(
        set_up=set_up,
        workload=workload,
        seed=seed,
        capacity=capacity,
        metrics=_simulate(set_up, names, workload),
    )
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


def _policies(text: str) -> list[str]:
    from engine.simulation.serve.comparison import check_policy

    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        check_policy(name)
    if not names:
        raise UsageError("it names no policy", where="--policy", remedy="such as fcfs,mlfq")
    return names


def _workload(
    text: str,
    set_up: SetUp,
    requests: int | None,
    seed: int,
    cv: float,
    traces: Path | None,
    load: float | None,
) -> Workload:
    from engine.simulation.serve.lengths import LENGTHS
    from engine.simulation.serve.workload import find_workload, parse_workload
    from opsuite.shared_data import find_shared

    name, rate = parse_workload(text)
    if rate is not None and load is not None:
        raise UsageError("a rate and a load", where="--trace, --load", remedy="give one of both")
    if rate is None and load is None and (name in LENGTHS or name.startswith("azure-")):
        raise UsageError(f"{name} has no rate", where="--trace", remedy=f"{_NO_RATE}: {name}@2")
    found = find_workload(
        name,
        rate=rate,
        requests=requests,
        seed=seed,
        cv=cv,
        traces=traces or find_shared("traces"),
    ).fitting(set_up.kv_tokens // 16 * 16)
    if not found.requests:
        raise UsageError(
            f"no request of {found.name} fits into {set_up.kv_tokens:,} tokens",
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
