"""How good an outcome is: completion times and what else users notice, split by prompt length.

A request that was not finished when the simulation ended counts as if it ended just then: its times
are lower bounds, and leaving it out would favour policies that let long requests starve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.simulation.serve.life import Life, Outcome

LEAST_OUTPUT = 8  # tokens; below, the first token's time alone makes the time a token large
_LONG = 10  # the longest tenth of the prompts are "long"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of times in seconds; ``count`` is of how many requests."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class Times:
    """In seconds; None where no request has such a time.

    Attributes:
        jct: from arrival to the last token.
        ttft: from arrival to the first token.
        tpot: between tokens, of requests of at least two that have begun to answer.
        jct_per_token: completion time over output tokens, of outputs of at least 8 tokens.
    """

    jct: Spread | None
    ttft: Spread | None
    tpot: Spread | None
    jct_per_token: Spread | None


@dataclass(frozen=True, kw_only=True)
class ByPrompt:
    """Attributes:
    short, long: of all but the longest tenth of the prompts, and of that tenth.
    """

    all: Times
    short: Times
    long: Times


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Of one policy on one workload.

    Attributes:
        all, short, long: see :class:`ByPrompt`.
        requests_per_s, output_tokens_per_s: of finished requests, from the first arrival to the
            end of the simulation.
        busy, waited: shares of the time in which the engine computed, or waited for swapping.
    """

    policy: str
    requests: int
    unfinished: int
    all: Times
    short: Times
    long: Times
    requests_per_s: float
    output_tokens_per_s: float
    busy: float
    waited: float
    iterations: int
    preemptions: int
    swapped_bytes: int
    recomputed_tokens: int


def measure(outcome: Outcome) -> Metrics:
    """Of an outcome with at least one request."""
    lives = outcome.lives
    times = by_prompt(lives, outcome.end_s)
    span_s = max(outcome.end_s - lives[0].request.arrival_s, 1e-9)
    finished = [life for life in lives if life.finished]
    return Metrics(
        policy=outcome.policy,
        requests=len(lives),
        unfinished=outcome.unfinished,
        all=times.all,
        short=times.short,
        long=times.long,
        requests_per_s=len(finished) / span_s,
        output_tokens_per_s=sum(life.request.output_tokens for life in finished) / span_s,
        busy=outcome.busy_s / span_s,
        waited=outcome.waited_s / span_s,
        iterations=outcome.iterations,
        preemptions=sum(life.preemptions for life in lives),
        swapped_bytes=outcome.swapped_bytes,
        recomputed_tokens=sum(life.recomputed for life in lives),
    )


def by_prompt(lives: Sequence[Life], end_s: float) -> ByPrompt:
    """Times of requests, simulated or live, by the length of their prompts.

    Args:
        end_s: when those ended that are not finished.
    """
    order = np.argsort([life.request.prompt_tokens for life in lives], kind="stable")
    long = set(order[len(lives) - len(lives) // _LONG :].tolist())
    return ByPrompt(
        all=_times(lives, end_s),
        short=_times([each for i, each in enumerate(lives) if i not in long], end_s),
        long=_times([each for i, each in enumerate(lives) if i in long], end_s),
    )


def _times(lives: Sequence[Life], end_s: float) -> Times:
    arrival = np.array([life.request.arrival_s for life in lives], dtype=float)
    output = np.array([life.request.output_tokens for life in lives], dtype=float)
    first = np.array([end_s if each.first_s is None else each.first_s for each in lives])
    last = np.array([_last_s(life, end_s) for life in lives], dtype=float)
    begun = np.array([life.first_s is not None for life in lives], dtype=bool)
    several, enough = (output >= 2) & begun, output >= LEAST_OUTPUT
    jct = last - arrival
    return Times(
        jct=_spread(jct),
        ttft=_spread(first - arrival),
        tpot=_spread((last - first)[several] / (output[several] - 1)),
        jct_per_token=_spread(jct[enough] / output[enough]),
    )


def _last_s(life: Life, end_s: float) -> float:
    return life.last_s if life.finished and life.last_s is not None else end_s


def _spread(times: NDArray[np.float64]) -> Spread | None:
    if not len(times):
        return None
    p50, p95, p99 = np.percentile(times, (50, 95, 99)).tolist()
    return Spread(count=len(times), mean=float(times.mean()), p50=p50, p95=p95, p99=p99)
