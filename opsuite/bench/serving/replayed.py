"""A trace or workload on live servers: times as ``opsuite simulate serve`` defines them."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from collectors.errors import UsageError
from collectors.settings import Settings
from opsuite.bench.result import Row
from opsuite.bench.rounds import median_interval, ratio_interval
from opsuite.bench.serving.live import server_at, servers_of
from opsuite.bench.serving.model import make_model
from opsuite.model_reference import resolve_model
from opsuite.output import narrate
from opsuite.shared_data import find_shared

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.simulation.serve.metrics import Spread, Times
    from engine.simulation.serve.request import Workload
    from opsuite.bench.options import BenchOptions
    from opsuite.bench.serving.live import LiveServer
    from opsuite.bench.serving.measured import Measured

_REQUESTS = 200


def measure_trace(rounds: int, options: BenchOptions) -> list[Row]:
    """Of each server, interleaved; the first policy is the baseline of the others."""
    found: dict[str, list[Measured]] = {}
    with _servers(options) as (servers, context):
        for number in range(rounds):
            workload = _workload(options, number, context)
            narrate(f"round {number + 1} of {rounds}: {len(workload.requests):,} requests ...")
            for name in list(servers) if number % 2 == 0 else list(servers)[::-1]:
                narrate(f"  {name} ...")
                found.setdefault(name, []).append(servers[name].measure(workload, seed=number))
        names = list(servers)
    rows = _rows(names[0], found[names[0]], None)
    for name in names[1:]:
        rows += _rows(name, found[name], found[names[0]])
    return rows


@contextmanager
def _servers(options: BenchOptions) -> Iterator[tuple[Mapping[str, LiveServer], int | None]]:
    """By name; and how long a request may be, where that is known."""
    if options.url:
        server = server_at(options.url)
        yield {server.name: server}, server.served.max_len
        return
    from engine.models.huggingface import load_config

    policies = [name.strip() for name in options.policy.split(",") if name.strip()]
    if not policies:
        raise UsageError("it names no policy", where="--policy", remedy="such as fcfs,adaptive")
    with tempfile.TemporaryDirectory() as scratch:
        model = _model(options.model, Path(scratch))
        context = load_config(model).max_seq_len
        limits = ("--max-batch", str(options.max_batch))
        with servers_of(policies, str(model), limits) as servers:
            yield servers, context


def _model(reference: str, scratch: Path) -> Path:
    """What the user means; a small random one where nothing is meant."""
    if reference:
        return resolve_model(Settings.from_environment().home, reference).directory
    make_model(scratch / "random-256")
    return scratch / "random-256"


def _workload(options: BenchOptions, seed: int, context: int | None) -> Workload:
    """Of one round: other requests each time, or always a file's."""
    from engine.simulation.serve.lengths import LENGTHS
    from engine.simulation.serve.workload import find_workload, parse_workload

    name, rate = parse_workload(options.trace)
    drawn = name in LENGTHS or name.startswith("azure-")
    if drawn and rate is None:
        raise UsageError(
            f"{name} has no rate", where="--trace", remedy=f"give requests a second: {name}@2"
        )
    found = find_workload(
        name,
        rate=rate,
        requests=options.requests or (_REQUESTS if drawn else None),
        seed=seed,
        traces=find_shared("traces"),
    )
    if context is None:
        return found
    fitting = found.fitting(context)
    if not fitting.requests:
        raise UsageError(
            f"no request of {name} fits into a context of {context:,} tokens",
            where="--trace",
            remedy="give shorter requests, or a model with a longer context",
        )
    if fitting.dropped:
        narrate(f"{fitting.dropped:,} requests are too long for the model and left out")
    return fitting


# -- rows ---


class _Figure(NamedTuple):
    """One figure of a replay, such as the P99 of the TTFT of short prompts."""

    part: str
    what: str
    which: str

    @property
    def name(self) -> str:
        which = self.which if self.which == "mean" else self.which.upper()
        prompts = "" if self.part == "all" else f", {self.part} prompts"
        return f"{_TIMES[self.what]} {which}{prompts}"

    def of(self, found: Measured) -> float | None:
        times: Times = getattr(found.times, self.part)
        spread: Spread | None = getattr(times, self.what)
        return None if spread is None else float(getattr(spread, self.which))


_TIMES = {"jct": "JCT", "ttft": "TTFT", "tpot": "TPOT", "jct_per_token": "JCT a token"}
_FIGURES = [
    _Figure(part, what, which)
    for part in ("all", "short", "long")
    for what in _TIMES
    for which in ("mean", "p50", "p95", "p99")
]


def _rows(name: str, found: Sequence[Measured], first: Sequence[Measured] | None) -> list[Row]:
    rows = [_row(name, figure, found, first) for figure in _FIGURES]
    return [*rows, _failed_row(name, found)]


def _row(
    name: str, figure: _Figure, found: Sequence[Measured], first: Sequence[Measured] | None
) -> Row:
    values = [value for each in found if (value := figure.of(each)) is not None]
    base = [value for each in first or () if (value := figure.of(each)) is not None]
    row = Row(name=f"{name}: {figure.name}", value=None, unit="s", rounds=len(values))
    if not values:
        return row
    if not base:
        return replace(row, value=median(values), interval=median_interval(values))
    return replace(
        row,
        value=median(values),
        baseline=median(base),
        ratio=median(values) / median(base),
        interval=ratio_interval(values, base),
    )


def _failed_row(name: str, found: Sequence[Measured]) -> Row:
    """What a reader must know of all others."""
    busiest, latest = max(each.client_busy for each in found), max(each.late_s for each in found)
    problems = [each.problem for each in found if each.problem]
    client = f"the client took at most {busiest:.0%} of a core, and sent {latest * 1e3:.1f} ms late"
    return Row(
        name=f"{name}: requests that failed",
        value=sum(each.failed for each in found),
        unit=f"of {sum(each.requests for each in found):,}",
        rounds=len(found),
        note="; ".join([f"{client} (P99, the worst round)", *problems[:1]]),
    )
