"""How much of its communication each operator hides.

The effective communication time of a way is what it takes beyond the product alone (Flux, arXiv
2406.06858, section 5.1); overlap efficiency E is the share of the serial way's that is gone.
Negative: worse than hiding nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from collectors.errors import RunFailed, UsageError
from engine.overlap.timing.case import ALONE, Case, Plan
from opsuite.bench.options import BenchOptions
from opsuite.bench.result import Row
from opsuite.bench.rounds import interval_of, ratio_interval
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Seconds = Mapping[str, Sequence[float]]

ROWS = (64, 256, 512, 1024, 2048, 4096)
WEIGHTS = ((1024, 1024), (4096, 1024), (1024, 4096), (64, 1024))
SMALL_ROWS = 512
"""Up to which sums are reduced whole, as decoding does."""
MUCH, SOME = 0.30, 0.15
"""Shares of communication in the serial way, from which on there are targets."""
TARGETS = {"all_gather_matmul": 0.90, "matmul_reduce_scatter": 0.85, "matmul_all_reduce": 0.85}
SOME_TARGET = 0.7
MAX_SLOWDOWN = 1.03


def measure(rounds: int, options: BenchOptions | None = None) -> list[Row]:
    """All cases in one run of the ranks."""
    options = options or BenchOptions()
    cases = _cases(options)
    _require(options)
    plan = Plan(cases=cases, rounds=rounds, device=options.device, tune=options.tune)
    timed = _timed(plan, options.ranks)
    rows = [_row(case, seconds) for case, seconds in timed]
    if options.plot is not None:
        from opsuite.bench.overlap_plot import draw

        draw(timed, options.plot)
    return [*rows, _slower_row(timed)]


def _require(options: BenchOptions) -> None:
    """Raises UsageError where something is missing that is needed later."""
    if options.device == "cuda":
        from engine.devices import pick_device

        pick_device("cuda", ranks=options.ranks)
    if options.plot is not None:
        from opsuite.bench.overlap_plot import require_drawing

        require_drawing(options.plot)


def _cases(options: BenchOptions) -> tuple[Case, ...]:
    if options.shapes:
        shapes = [_parse(text, options.ranks) for text in options.shapes.split(";")]
        return tuple(_of(shapes, tuple(TARGETS)))
    gathered = [(m, *weight) for m, weight in product(ROWS, WEIGHTS)]
    small = [(m, n, k) for m, n, k in gathered if m <= SMALL_ROWS and n >= SMALL_ROWS]
    return (
        *_of(gathered, ("all_gather_matmul", "matmul_reduce_scatter"), ("forward",)),
        *_of(small, ("matmul_all_reduce",), ("forward",)),
        *_of(
            [(m, *WEIGHTS[1]) for m in ROWS],
            ("all_gather_matmul", "matmul_reduce_scatter"),
            ("forward_backward",),
        ),
    )


def _of(
    shapes: Sequence[tuple[int, int, int]],
    operators: Sequence[str],
    directions: Sequence[str] = ("forward", "forward_backward"),
) -> Iterator[Case]:
    for operator, direction, (m, n, k) in product(operators, directions, shapes):
        yield Case(operator=operator, direction=direction, m=m, n=n, k=k)  # type: ignore[arg-type]


def _parse(text: str, ranks: int) -> tuple[int, int, int]:
    try:
        m, n, k = (int(part) for part in text.split(","))
    except ValueError:
        m = n = k = 0
    if not all(0 < size <= 1 << 20 and size % ranks == 0 for size in (m, n, k)):
        raise UsageError(
            f"{text!r} is no shape",
            where="--shapes",
            remedy=f"give m,n,k, each a multiple of the {ranks} ranks, such as 1024,4096,1024",
        )
    return m, n, k


def _timed(plan: Plan, ranks: int) -> list[tuple[Case, dict[str, list[float]]]]:
    """Seconds of each way in each round, the slowest rank's."""
    narrate(f"{len(plan.cases)} cases, {plan.rounds} rounds each, {ranks} ranks ...")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "plan.json").write_text(json.dumps(plan.to_json()), encoding="utf-8")
        _run(place, ranks)
        told = [
            [json.loads(line) for line in (place / f"rank{rank}.jsonl").read_text().splitlines()]
            for rank in range(ranks)
        ]
    for of_case in told[0]:
        if of_case["wrong"]:
            raise RunFailed(f"wrong results: {', '.join(of_case['wrong'])}", where=of_case["case"])
    return [
        (case, {way: _slowest([rank["seconds"][way] for rank in ranks_told]) for way in ways})
        for case, *ranks_told in zip(plan.cases, *told, strict=True)
        for ways in [ranks_told[0]["seconds"]]
    ]


def _slowest(of_ranks: Sequence[Sequence[float]]) -> list[float]:
    return [max(each) for each in zip(*of_ranks, strict=True)]


def _run(place: Path, ranks: int) -> None:
    """Under torchrun, which ends all where one fails."""
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", "-m", "engine.overlap.timing.worker"]
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **os.environ}
    ended = subprocess.run(
        [*command, str(place / "plan.json"), str(place)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise RunFailed("the ranks did not end well", where=ended.stderr[-3000:])


def efficiency(fused: Sequence[float], serial: Sequence[float], gemm: Sequence[float]) -> float:
    """E, of medians; 1 where there is nothing to hide."""
    to_hide = float(np.median(serial) - np.median(gemm))
    left = float(np.median(fused) - np.median(gemm))
    return 1 - left / to_hide if to_hide > 0 else 1.0


def product_alone(seconds: Seconds) -> Sequence[float]:
    """The best that there is without splitting: the library's, or ours."""
    return min((seconds[way] for way in ALONE if way in seconds), key=median)


def share_of_communication(seconds: Seconds) -> float:
    """Of the library's serial way."""
    return 1 - median(product_alone(seconds)) / median(seconds["serial"])


def _row(case: Case, seconds: Seconds) -> Row:
    share = share_of_communication(seconds)
    fused, serial, alone = seconds["fused"], seconds["serial"], product_alone(seconds)
    value = efficiency(fused, serial, alone)
    own = efficiency(fused, seconds["serial_own"], alone)
    target = _target(case, share)
    times = ", ".join(f"{way} {median(each) * 1e3:.3f}" for way, each in seconds.items())
    speed = median(serial) / median(fused)
    return Row(
        name=str(case),
        value=value,
        unit="E",
        rounds=len(fused),
        interval=interval_of(efficiency, fused, serial, alone),
        target="" if target is None else f">= {target}",
        met=None if target is None else value >= target,
        note=f"communication {share:.0%} of serial; {speed:.2f}x of it; E {own:.2f} against our own"
        f" serial transport; ms: {times}",
    )


def _target(case: Case, share: float) -> float | None:
    if share >= MUCH:
        return TARGETS[case.operator]
    return SOME_TARGET if share >= SOME else None


def _slower_row(timed: Sequence[tuple[Case, Seconds]]) -> Row:
    slower = [
        str(case)
        for case, seconds in timed
        if ratio_interval(seconds["fused"], seconds["serial"])[0] > MAX_SLOWDOWN
    ]
    return Row(
        name=f"cases slower than the library's serial way by over {MAX_SLOWDOWN - 1:.0%},"
        " outside of the interval",
        value=len(slower),
        unit=f"of {len(timed)}",
        rounds=len(timed[0][1]["fused"]),
        target="none",
        met=not slower,
        note="; ".join(slower),
    )
