"""How long an elastic fleet's manager decides: a thousand prompts wait, and 64 instances do."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from opsuite.bench.result import Row
from opsuite.bench.rounds import median_interval

if TYPE_CHECKING:
    from engine.elastic.snapshot import Snapshot

_PROMPTS, _INSTANCES, _SLOTS = 1_000, 64, 210_000
_TIMES = 25
_MOST_MS = 5.0


def decision_row() -> Row:
    """Of policy ``esp`` in LoongServe's set-up, anew each time."""
    from engine.elastic.esp import ElasticSequenceParallelism
    from engine.simulation.fleet.set_up import loongserve_set_up

    base = loongserve_set_up().base
    snapshot = _snapshot()
    times = []
    for _ in range(_TIMES):
        policy = ElasticSequenceParallelism(base, prefill_tokens=8_192)
        begun = time.perf_counter()
        policy.decide(snapshot)
        times.append(1e3 * (time.perf_counter() - begun))
    return Row(
        name=f"a decision for {_PROMPTS:,} prompts that wait on {_INSTANCES} instances",
        value=median(times),
        unit="ms",
        rounds=_TIMES,
        interval=median_interval(times),
        target=f"<= {_MOST_MS:g} ms",
        met=median(times) <= _MOST_MS,
        note=f"the fastest: {min(times):.2g} ms",
    )


def _snapshot() -> Snapshot:
    """Prompts of 100 to 100,000 tokens; every instance but the seventh decodes something."""
    from engine.elastic.snapshot import Instance, Snapshot, Waiting

    lengths = np.random.default_rng(0).uniform(np.log(100), np.log(100_000), _PROMPTS)
    prompts = np.exp(lengths).astype(int).tolist()
    return Snapshot(
        now=10.0,
        waiting=tuple(
            Waiting(
                number=number,
                cached=0,
                due=prompt,
                held=(),
                arrived_s=0.01 * number,
                generated=0,
                room=prompt + 100,
            )
            for number, prompt in enumerate(prompts)
        ),
        instances=tuple(
            Instance(
                number=number,
                free=_SLOTS - 2_000 * (number % 7),
                slots=_SLOTS,
                idle=True,
                ends_s=10.0,
                decodes=number % 7,
                context=2_000 * (number % 7),
                urgency=(number % 7) / 2_000,
                bound=frozenset((number,)),
            )
            for number in range(_INSTANCES)
        ),
    )
