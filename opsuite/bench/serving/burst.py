"""Long requests ahead of many short ones: what preempting at every token is for."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from opsuite.bench.result import Row
from opsuite.bench.rounds import ratio_interval
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.simulation.serve.request import Workload
    from opsuite.bench.serving.live import LiveServer
    from opsuite.bench.serving.measured import Measured

POLICIES = ("fcfs", "skip-join-mlfq", "adaptive")
LONG, SHORT = 6, 54
_FCFS = POLICIES[0]
_LONG_PROMPT, _LONG_OUTPUT = 128, 500  # tokens
_SHORT_PROMPT, _SHORT_OUTPUT = 16, 10
_SHORT_FROM_S, _SHORT_EVERY_S = 0.1, 0.01
BETTER, LATER = 2.0, 1.5
_SEED = 2_000_000  # of prompts that no other part of the benchmark has sent


def burst() -> Workload:
    """The long ones first, so that they fill the batch; the short ones right after."""
    from engine.simulation.serve.request import Request, Workload

    long = [
        Request(arrival_s=0.0, prompt_tokens=_LONG_PROMPT, output_tokens=_LONG_OUTPUT)
        for _ in range(LONG)
    ]
    short = [
        Request(
            arrival_s=_SHORT_FROM_S + number * _SHORT_EVERY_S,
            prompt_tokens=_SHORT_PROMPT,
            output_tokens=_SHORT_OUTPUT,
        )
        for number in range(SHORT)
    ]
    return Workload(name="burst", requests=(*long, *short))


def measure_burst(servers: Mapping[str, LiveServer], rounds: int) -> list[Row]:
    """Interleaved; figures of each round are means over its requests.

    Args:
        servers: by policy, with those of ``POLICIES`` among them.
    """
    workload = burst()
    found: dict[str, list[Measured]] = {policy: [] for policy in POLICIES}
    for number in range(rounds):
        narrate(f"burst, round {number + 1} of {rounds} ...")
        for policy in POLICIES if number % 2 == 0 else POLICIES[::-1]:
            found[policy].append(servers[policy].measure(workload, seed=_SEED + number))
    rows = []
    for policy in POLICIES[1:]:
        rows += _compared(policy, found[policy], found[_FCFS])
    return rows


def _compared(policy: str, ours: Sequence[Measured], fcfs: Sequence[Measured]) -> list[Row]:
    failed = sum(each.failed for each in (*ours, *fcfs))
    note = f"{LONG} requests of {_LONG_PROMPT} + {_LONG_OUTPUT} tokens at once, then {SHORT} of"
    note += f" {_SHORT_PROMPT} + {_SHORT_OUTPUT}, one each {_SHORT_EVERY_S * 1e3:g} ms"
    note += f"; {failed} failed"
    name = f"live, long ahead of short, {policy}"
    rows = [
        _row(f"{name}: mean JCT", _means(ours), _means(fcfs), 1 / BETTER, note),
        _row(f"{name}: mean JCT of the long", _longs(ours), _longs(fcfs), LATER, ""),
    ]
    return [replace(row, met=row.met and not failed) for row in rows]


def _row(name: str, ours: Sequence[float], fcfs: Sequence[float], most: float, note: str) -> Row:
    ratio = median(ours) / median(fcfs)
    text = f">= {1 / most:g} x better than FCFS" if most < 1 else f"<= {most:g} x FCFS's"
    return Row(
        name=name,
        value=median(ours),
        unit="s",
        rounds=len(ours),
        baseline=median(fcfs),
        ratio=ratio,
        interval=ratio_interval(ours, fcfs),
        target=text,
        met=ratio <= most,
        note=note,
    )


def _means(found: Sequence[Measured]) -> list[float]:
    return [each.times.all.jct.mean for each in found if each.times.all.jct]


def _longs(found: Sequence[Measured]) -> list[float]:
    """Theirs are the longest tenth of the prompts."""
    return [each.times.long.jct.mean for each in found if each.times.long.jct]
