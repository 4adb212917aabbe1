"""Training-like steps in one process on one core, with each tracer and without, in turn.

``overhead`` starts it with the run's spool, a scratch directory, the number of turns and a core;
it prints its figures as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from opsuite.bench.rounds import interleave
from opsuite.bench.tracing.tracers import TRACERS

if TYPE_CHECKING:
    from opsuite.bench.tracing.tracers import Tracer

SPANS_A_STEP = 200
STEP_S = 0.02
_STEPS_A_TURN = 5
_NAMES = ("embed", "attention", "mlp", "norm", "all_reduce", "loss", "backward", "optimizer")
_SIDE = 64


class Work:
    """A step of about 20 ms: many small matrix products, cut into as many pieces as spans."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._left = rng.standard_normal((_SIDE, _SIDE), dtype=np.float32)
        self._right = rng.standard_normal((_SIDE, _SIDE), dtype=np.float32)
        self._out = np.empty_like(self._left)
        self.products = 4
        for _ in range(2):  # the second time from close by
            quickest = min(self._pass_s() for _ in range(10))
            self.products = max(1, round(self.products * STEP_S / quickest))

    def _pass_s(self) -> float:
        start = perf_counter()
        untraced_step(self)
        return perf_counter() - start

    def piece(self) -> None:
        """What one span is around."""
        for _ in range(self.products):
            np.matmul(self._left, self._right, out=self._out)


def untraced_step(work: Work) -> None:
    """A step that is not traced; its pieces have names all the same."""
    for index in range(SPANS_A_STEP):
        _NAMES[index % len(_NAMES)]
        work.piece()


def traced_step(work: Work, tracer: Tracer, step: int) -> None:
    """The same, with a span around each piece."""
    for index in range(SPANS_A_STEP):
        with tracer.span(_NAMES[index % len(_NAMES)], step):
            work.piece()


def costed_step(work: Work, tracer: Tracer, step: int) -> list[int]:
    """What entering and leaving each span of a step takes, in nanoseconds."""
    costs = []
    for index in range(SPANS_A_STEP):
        before = perf_counter_ns()
        with tracer.span(_NAMES[index % len(_NAMES)], step):
            entered = perf_counter_ns()
            work.piece()
            leaving = perf_counter_ns()
        costs.append(perf_counter_ns() - leaving + entered - before)
    return costs


class Variant:
    """Steps with one tracer, or with none; called once a turn."""

    def __init__(self, work: Work, tracer: Tracer | None) -> None:
        self.steps_s: list[float] = []
        self.costs_ns: list[int] = []
        self._work = work
        self._tracer = tracer
        self._step = 0

    def __call__(self) -> float:
        """Time a turn's steps; one step more gives the costs of its spans."""
        tracer = self._tracer
        if tracer is not None:
            tracer.begin()
        for _ in range(_STEPS_A_TURN):
            self._step += 1
            start = perf_counter()
            if tracer is None:
                untraced_step(self._work)
            else:
                traced_step(self._work, tracer, self._step)
            self.steps_s.append(perf_counter() - start)
        if tracer is not None:
            self.costs_ns += costed_step(self._work, tracer, self._step)
            tracer.end()
        return median(self.steps_s)


def run(spool: Path, scratch: Path, turns: int) -> dict[str, Any]:
    """Figures by variant ("" = no tracer): seconds of all steps, nanoseconds of spans."""
    work = Work()
    variants, missing = {"": Variant(work, None)}, {}
    for name, make in TRACERS.items():
        try:
            variants[name] = Variant(work, make(spool, scratch))
        except ImportError as error:
            missing[name] = str(error)
    for variant in variants.values():
        variant()  # warm
        variant.steps_s.clear()
        variant.costs_ns.clear()
    interleave(variants, turns)
    return {
        "steps_s": {name: variant.steps_s for name, variant in variants.items()},
        "costs_ns": {name: variant.costs_ns for name, variant in variants.items()},
        "missing": missing,
    }


if __name__ == "__main__":
    where, beside, count, core = sys.argv[1:]
    if int(core) >= 0:
        os.sched_setaffinity(0, {int(core)})
    sys.stdout.write(json.dumps(run(Path(where), Path(beside), int(count))))
    sys.stdout.flush()
    os._exit(0)  # what the others would still do at exit is not asked here
