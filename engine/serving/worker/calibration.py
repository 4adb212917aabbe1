"""How long iterations take on this device.

A time ends when the chosen tokens are on the host, as in a server's iteration: so the device has
done all of it. A launch's time says nothing of a prompt's length (FastServe's released profile is
of launches: its skip-join never skips).
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

from engine.profiles.profile import DecodeSample, PrefillSample
from engine.scheduling.iteration import Work
from engine.scheduling.job import Job
from engine.serving.sampling.parameters import Candidate, SamplingParameters
from engine.serving.sampling.sampler import choose

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.scheduling.limits import Limits
    from engine.serving.paged.runner import PagedRunner

_TOKEN = 1
_SHORTEST = 8  # tokens of the shortest prompt and context
_CANDIDATE = Candidate(parameters=SamplingParameters(temperature=0), prompt=(), output=())

Point = tuple[tuple[int, int], ...]
"""A pass: of each sequence, tokens that are cached and tokens that are computed."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured. Every rank of a group does the same.

    Attributes:
        prefills: lengths of the prompts of each.
        decodes: (batch, tokens of context each).
        rounds: over all of it, after one that does not count; of each point the median counts.
    """

    prefills: tuple[tuple[int, ...], ...]
    decodes: tuple[tuple[int, int], ...]
    rounds: int


def brief_plan(limits: Limits, *, max_len: int) -> Plan:
    """What a server that was given no profile measures before it is ready."""
    longest = _longest(limits, max_len)
    return Plan(
        prefills=tuple((length,) for length in _spread(_SHORTEST, longest, 4)),
        decodes=_decodes(limits, max_len, batches=3, contexts=3),
        rounds=2,
    )


def full_plan(limits: Limits, *, max_len: int, rounds: int) -> Plan:
    """What a profile holds: single prompts and batches of them, single requests and batches.

    All fit the device's blocks.
    """
    longest = _longest(limits, max_len)
    single = [(length,) for length in _spread(_SHORTEST, longest, 8)]
    several = [
        (length // count,) * count
        for count in _spread(1, limits.max_batch, 3)[1:]
        for length in _spread(_SHORTEST * count, longest, 3)
        if length >= count and count * limits.blocks_of(length // count) <= limits.blocks
    ]
    decodes = _decodes(limits, max_len, batches=5, contexts=4)
    return Plan(prefills=(*single, *several), decodes=decodes, rounds=rounds)


def measure(
    runner: PagedRunner, plan: Plan, told: Callable[[str], None] = lambda _: None
) -> tuple[list[PrefillSample], list[DecodeSample]]:
    """Run all of a plan; nobody else uses the runner meanwhile.

    Args:
        told: of each round, for people.
    """
    prefills: list[Point] = [tuple((0, length) for length in each) for each in plan.prefills]
    decodes: list[Point] = [((context, 1),) * batch for batch, context in plan.decodes]
    seconds: dict[Point, list[float]] = defaultdict(list)
    for number in range(plan.rounds + 1):
        told(f"round {number} of {plan.rounds} ..." if number else "a first round, to warm up ...")
        for point in (*prefills, *decodes):  # in turn: a slow moment of the machine harms each once
            seconds[point].append(_timed(runner, point))
    usual = {point: median(times[1:]) for point, times in seconds.items()}
    return (
        [
            PrefillSample(lengths=lengths, seconds=usual[point])
            for lengths, point in zip(plan.prefills, prefills, strict=True)
        ],
        [
            DecodeSample(batch=batch, context_tokens=batch * context, seconds=usual[point])
            for (batch, context), point in zip(plan.decodes, decodes, strict=True)
        ],
    )


def _longest(limits: Limits, max_len: int) -> int:
    """Tokens of prompts that one iteration computes at most."""
    return min(max_len - 1, limits.prefill_tokens or max_len)


def _decodes(
    limits: Limits, max_len: int, *, batches: int, contexts: int
) -> tuple[tuple[int, int], ...]:
    found = []
    for batch in _spread(1, limits.max_batch, batches):
        most = min(max_len, limits.blocks // batch * limits.block_tokens) - 1
        if most > 0:
            found += [(batch, context) for context in _spread(_SHORTEST, most, contexts)]
    return tuple(found)


def _spread(first: int, last: int, count: int) -> tuple[int, ...]:
    """So many numbers in equal ratios, both ends included; ``last`` alone where it is less."""
    first = min(first, last)
    ratio = (last / first) ** (1 / (count - 1))
    return tuple(sorted({round(first * ratio**each) for each in range(count)}))


def _timed(runner: PagedRunner, point: Point) -> float:
    """Seconds of one pass and of the choice of its tokens."""
    work = []
    for number, (cached, computed) in enumerate(point):
        job = Job(number=-1 - number, arrived_s=0.0, prompt_tokens=cached + 1, max_tokens=1)
        runner.cache.begin(job.number, expected=cached + computed)
        work.append(Work(job, cached, computed, gives=True))
    texts = {each.job.number: [_TOKEN] * (each.first + each.tokens) for each in work}
    device = runner.cache.storage.device_blocks.device
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        scores = runner.compute(work, texts)
        if len(scores):  # in a pipeline only at its end
            choose(scores, [_CANDIDATE] * len(work))  # tokens are on the host
        runner.meet()
        return time.perf_counter() - start
    finally:
        for each in work:
            runner.cache.free(each.job.number)
