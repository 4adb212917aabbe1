"""``opsuite simulate``: what would happen, by the decisions that a live job makes."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from collectors.errors import UsageError
from opsuite.cli.simulate_serve import serve
from opsuite.output import print_data, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from engine.simulation.train.costs import Costs
    from engine.simulation.train.failures import Load, Rhythm
    from engine.simulation.train.scale import Scale
    from engine.simulation.train.study import Studies
    from opsuite.simulated_training import Examined

_GPUS = 12_288

simulate = typer.Typer(no_args_is_help=True, help="Run the same decisions in simulated time.")
simulate.command("serve")(serve)


class Practice(StrEnum):
    """How a job is kept running."""

    MEGASCALE = "megascale"
    OURS = "ours"


@simulate.command("train")
def train(
    gpus: Annotated[int | None, typer.Option(min=1, help=f"In all. [default: {_GPUS}]")] = None,
    hosts: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Instead of --gpus.")
    ] = None,
    gpus_per_host: Annotated[int, typer.Option(min=1, max=1024, help="Of each host.")] = 8,
    duration: Annotated[str, typer.Option(help="To simulate, such as 20m.")] = "54d",
    failures: Annotated[
        str | None, typer.Option(metavar="FILE|llama3|kill", help="Which. [default: llama3]")
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(help="One so often, such as 60s, at a fixed rhythm. [default: as FILE says]"),
    ] = None,
    rhythm: Annotated[
        Literal["exponential", "fixed"] | None, typer.Option(help="Of failures.")
    ] = None,
    practice: Annotated[
        list[Practice] | None, typer.Option(help="Only this one. [default: both, or --costs]")
    ] = None,
    costs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measured costs as JSON.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each variant.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="The first.")] = 0,
    exact: Annotated[bool, typer.Option("--exact", help="Every host and rank: slow.")] = False,
    what_if: Annotated[bool, typer.Option(help="Say what would help most.")] = True,
    sources: Annotated[bool, typer.Option("--sources", help="Print all inputs.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Predict the effective training time of a job, by the driver that drives live ones.

    Two practices side by side: MegaScale's and this project's, with the interruptions that Llama 3
    met. Or a job of one's own: --hosts 2 --gpus-per-host 2 --duration 20m --every 60s --costs FILE.
    What is assumed is printed with the result; docs/simulation.md says what is not modelled.
    """
    from engine.simulation.train.study import Studies
    from opsuite.simulated_training import document, tables

    scale = _scale(gpus, hosts, gpus_per_host, _seconds(duration, "--duration"), exact=exact)
    load = _load(failures, every, rhythm, scale)
    chosen = _practices(practice, costs)
    numbers = range(seed, seed + seeds)
    with _progress() as ran:
        examined = _examine(Studies(scale, load, numbers, ran), chosen, what_if=what_if)
    if json:
        print_json(document(scale, load, numbers, examined))
    else:
        print_data(tables(scale, load, numbers, examined, sources=sources))


def _examine(studies: Studies, chosen: Sequence[Costs], *, what_if: bool) -> list[Examined]:
    from opsuite.simulated_training import Examined

    found = []
    for costs in chosen:
        study = studies.study(costs)
        others = [other for other in chosen if other is not costs] if what_if else []
        found.append(
            Examined(
                study=study,
                what_if=studies.what_if(study) if what_if else (),
                take_over=[each for other in others for each in studies.take_over(study, other)],
            )
        )
    return found


def _scale(
    gpus: int | None, hosts: int | None, gpus_per_host: int, duration_s: float, *, exact: bool
) -> Scale:
    from engine.simulation.train.scale import Scale

    if gpus is not None and hosts is not None and gpus != hosts * gpus_per_host:
        raise UsageError(
            f"{hosts} hosts of {gpus_per_host} GPUs are not {gpus} GPUs",
            where="--gpus, --hosts",
            remedy="give one of both",
        )
    if hosts is None:
        hosts, rest = divmod(gpus or _GPUS, gpus_per_host)
        if rest:
            raise UsageError(
                f"{gpus or _GPUS} GPUs do not fill hosts of {gpus_per_host}",
                where="--gpus",
                remedy=f"take a multiple of {gpus_per_host}, or another --gpus-per-host",
            )
    return Scale(hosts=hosts, gpus_per_host=gpus_per_host, duration_s=duration_s, exact=exact)


def _load(failures: str | None, every: str | None, rhythm: Rhythm | None, scale: Scale) -> Load:
    from engine.simulation.interruptions import find_interruptions
    from engine.simulation.train.failures import Load

    interruptions = find_interruptions(failures or ("llama3" if every is None else "kill"))
    if every is None:
        every_s = 1 / interruptions.per_s(scale.gpus)
        return Load(interruptions=interruptions, every_s=every_s, rhythm=rhythm or "exponential")
    every_s = _seconds(every, "--every")
    return Load(interruptions=interruptions, every_s=every_s, rhythm=rhythm or "fixed")


def _practices(names: Sequence[str] | None, file: Path | None) -> list[Costs]:
    from engine.simulation.train.costs_file import read_costs
    from engine.simulation.train.practices import PRACTICES

    own = [read_costs(file)] if file is not None else []
    return [*(PRACTICES[name] for name in names or (() if own else Practice)), *own]


def _seconds(text: str, option: str) -> float:
    from collectors.duration import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise UsageError(str(error), where=option, remedy="such as 20m or 54d") from error
    if seconds <= 0:
        raise UsageError("it must be above 0", where=option, remedy="such as 20m or 54d")
    return seconds


@contextmanager
def _progress() -> Iterator[Callable[[], None]]:
    """Counts runs, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console

    count = 0
    with Console(stderr=True).status("simulating") as status:

        def ran() -> None:
            nonlocal count
            count += 1
            status.update(f"simulating: {count} runs done")

        yield ran
