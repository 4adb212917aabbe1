"""A latency's terms from measured times: least squares of the relative errors, no term below 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from engine.profiles.latency import Latency, PrefillTerms, latency_of
from engine.profiles.non_negative import non_negative

if TYPE_CHECKING:
    from collections.abc import Sequence

Terms = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Attributes:
    prefill_error, decode_error: the largest relative errors among the samples.
    """

    latency: Latency
    prefill_error: float
    decode_error: float


def fit_latency(
    prefills: Sequence[tuple[Sequence[int], float]],
    decodes: Sequence[tuple[int, int, float]],
) -> Fit:
    """From prefills (lengths, seconds) and decodes (batch, context tokens, seconds)."""
    prefill, prefill_error = _fit(
        [(1, sum(lengths), sum(n * n for n in lengths)) for lengths, _ in prefills],
        [seconds for _, seconds in prefills],
    )
    decode, decode_error = _fit(
        [(1, context, batch) for batch, context, _ in decodes],
        [seconds for *_, seconds in decodes],
    )
    latency = latency_of(prefill, decode)
    return Fit(latency=latency, prefill_error=prefill_error, decode_error=decode_error)


def fit_mixed(
    latency: Latency,
    prefills: Sequence[tuple[int, float]],
    mixed: Sequence[tuple[int, float, float]],
) -> Latency:
    """With what prompts cost beside decodes, which is where a busy engine computes them.

    Args:
        latency: whose decodes stay as they are.
        prefills: of one prompt alone: (length, seconds).
        mixed: of one prompt beside decodes: (length, seconds of these decodes without it, seconds).
    """
    (sequence, token, square), _ = _fit(
        [(1, length, length * length) for length, _, _ in mixed],
        [whole - decodes for _, decodes, whole in mixed],
        [whole for *_, whole in mixed],
    )
    terms = PrefillTerms(constant=0.0, token=token, square=square, sequence=sequence)
    beside = replace(latency, prefill=terms)
    left = [seconds - beside.added_s(length) for length, seconds in prefills]
    return replace(beside, prefill=replace(terms, constant=max(0.0, median(left))))


def _fit(
    inputs: Sequence[tuple[int, int, int]],
    seconds: Sequence[float],
    scales: Sequence[float] | None = None,
) -> tuple[Terms, float]:
    """Terms and the largest error, relative to ``scales`` or to the seconds."""
    scale = np.asarray(seconds if scales is None else scales, dtype=float)
    scaled = np.asarray(inputs, dtype=float) / scale[:, None]
    wanted = np.asarray(seconds, dtype=float) / scale
    best = non_negative(scaled, wanted)
    error = float(np.abs(scaled @ best - wanted).max())
    return (float(best[0]), float(best[1]), float(best[2])), error
