"""How much longer requests take than alone on all devices, and how much longer they may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.profiles.latency import Latency
    from engine.simulation.serve.life import Outcome
    from engine.simulation.serve.request import Request

_DRAIN = 0.1  # of the span of arrivals
_LONGEST = 5  # times the longest unloaded latency
Figure = Literal["normalised_latency", "slowdown_p90"]


@dataclass(frozen=True, kw_only=True)
class Slowdown:
    """Of one policy on one workload; 1: as if each request were alone on all devices.

    Attributes:
        normalised_latency: mean of latency over tokens (of prompt and output), over the same mean
            of unloaded latencies: LoongServe's metric.
        slowdown_p90: 90th percentile of latency over the request's own unloaded latency.
        keeps_up: whether all were done soon after the last had come: within a tenth of the span of
            arrivals, and five times the longest unloaded latency. Else the rate is too high,
            whatever the figures are: whoever lets a few long requests starve until the others have
            stopped coming has good ones.
    """

    normalised_latency: float
    slowdown_p90: float
    keeps_up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a fleet is to keep."""

    figure: Figure
    most: float

    @property
    def name(self) -> str:
        """For people."""
        what = "mean normalised latency" if self.figure == "normalised_latency" else "P90 slowdown"
        return f"{what} <= {self.most:g}x"


OBJECTIVES = (
    Objective(figure="normalised_latency", most=5),
    Objective(figure="normalised_latency", most=25),
    Objective(figure="slowdown_p90", most=5),
)


def unloaded_s(latency: Latency, requests: Sequence[Request]) -> NDArray[np.float64]:
    """From arrival to the last token of each, if it were alone: a prefill, then a decode for each
    further token."""
    prompt = np.array([each.prompt_tokens for each in requests], dtype=float)
    output = np.array([each.output_tokens for each in requests], dtype=float)
    begun, terms = latency.prefill, latency.small if latency.large_batch > 1 else latency.large
    prefill = begun.constant + begun.sequence + begun.token * prompt + begun.square * prompt**2
    steps = output - 1
    context = steps * prompt + steps * (steps + 1) / 2
    decodes = (terms.constant + terms.sequence) * steps + terms.context * context
    found: NDArray[np.float64] = prefill + decodes
    return found


def measure_slowdown(outcome: Outcome, latency: Latency) -> Slowdown:
    """Of an outcome with at least one request; what was not finished counts as if it had ended
    when the simulation did.

    Args:
        latency: of all devices as one engine.
    """
    requests = [life.request for life in outcome.lives]
    alone = unloaded_s(latency, requests)
    taken = np.array(
        [
            _taken(life.last_s if life.finished else None, outcome.end_s, life.request)
            for life in outcome.lives
        ]
    )
    tokens = np.array([each.tokens for each in requests], dtype=float)
    return Slowdown(
        normalised_latency=float((taken / tokens).mean() / (alone / tokens).mean()),
        slowdown_p90=float(np.percentile(taken / alone, 90)),
        keeps_up=_drained_s(outcome) <= _drain_s(requests, float(alone.max())),
    )


def _drained_s(outcome: Outcome) -> float:
    return outcome.end_s - outcome.lives[-1].request.arrival_s


def _drain_s(requests: Sequence[Request], longest_s: float) -> float:
    span_s = requests[-1].arrival_s - requests[0].arrival_s
    return _DRAIN * span_s + _LONGEST * longest_s


def _taken(last_s: float | None, end_s: float, request: Request) -> float:
    return (end_s if last_s is None else last_s) - request.arrival_s
