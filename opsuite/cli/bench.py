"""``opsuite bench``: the project's own figures, measured here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from opsuite.cli.exit_codes import ExitCode
from opsuite.output import print_data, print_json

if TYPE_CHECKING:
    from opsuite.bench.result import Result, Row


Device = Literal["cpu", "cuda"]


def bench(
    name: Annotated[str, typer.Argument(help="Which one; without it, all are listed.")] = "",
    rounds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="How often to measure.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    device: Annotated[Device, typer.Option(help="overlap: what ranks compute on.")] = "cpu",
    shapes: Annotated[
        str, typer.Option(help="overlap: m,n,k of whole matrices; several with ';'.")
    ] = "",
    ranks: Annotated[int, typer.Option(min=2, max=64, help="overlap: how many.")] = 2,
    tune: Annotated[
        bool, typer.Option("--tune", help="overlap: find the fastest choices; runs use them.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="overlap: draw this PNG.")] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="drills: simulate the job and all faults.")
    ] = False,
    seeds: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="drills: how many to simulate.")
    ] = 10_000,
    trace: Annotated[
        str, typer.Option(metavar="FILE|WORKLOAD@RATE", help="serve: which requests to send.")
    ] = "",
    url: Annotated[str, typer.Option(help="serve: a server that runs. [default: own ones]")] = "",
    policy: Annotated[
        str, typer.Option(metavar="A,B,...", help="serve: of own servers.")
    ] = "fcfs,skip-join-mlfq,adaptive",
    model: Annotated[str, typer.Option(help="serve: of own servers. [default: a random one]")] = "",
    max_batch: Annotated[int, typer.Option(min=1, help="serve: of own servers.")] = 4,
    requests: Annotated[
        int | None, typer.Option(min=1, help="serve: [default: 200, or all of FILE]")
    ] = None,
) -> None:
    """Measure a benchmark; exits with 1 where a target is missed."""
    from opsuite.bench.options import BenchOptions
    from opsuite.bench.registry import BENCHES, find_bench
    from opsuite.bench.result import make_result
    from tui.table import render_table

    if not name:
        listed = [{"name": b.name, "question": b.question} for b in BENCHES.values()]
        if json:
            print_json({"benches": listed})
        else:
            print_data(render_table(["bench", "question"], [tuple(b.values()) for b in listed]))
        return
    options = BenchOptions(
        device=device,
        shapes=shapes,
        ranks=ranks,
        tune=tune,
        plot=plot,
        simulated=simulated,
        seeds=seeds,
        trace=trace,
        url=url,
        policy=policy,
        model=model,
        max_batch=max_batch,
        requests=requests,
    )
    result = make_result(name, find_bench(name).measure(rounds, options))
    if json:
        print_json(result.to_json())
    else:
        print_data(_render(result))
    if not result.met:
        raise typer.Exit(ExitCode.FINDINGS_OR_FAILED)


def _render(result: Result) -> str:
    from tui.table import render_table

    head = f"{result.name}, {result.date}, commit {result.commit}\n{result.device}"
    columns = ["what", "value", "baseline", "ratio", "95 % interval", "rounds", "target", "met"]
    notes = [f"{row.name}: {row.note}" for row in result.rows if row.note]
    return "\n".join([head, render_table(columns, [_cells(row) for row in result.rows]), *notes])


def _cells(row: Row) -> tuple[str, ...]:
    def figure(value: float | None, unit: str = "") -> str:
        return "" if value is None else f"{value:.4g} {unit}".strip()

    interval = " - ".join(figure(bound) for bound in row.interval) if row.interval else ""
    met = {True: "yes", False: "NO", None: ""}[row.met]
    return (
        row.name,
        figure(row.value, row.unit),
        figure(row.baseline, row.unit),
        figure(row.ratio),
        interval,
        str(row.rounds),
        row.target,
        met,
    )
