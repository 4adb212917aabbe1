"""How much of a prompt is computed in a given time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.profiles.latency import Latency


def tokens_within(latency: Latency, seconds: float, cached: int) -> int:
    """The longest chunk after ``cached`` tokens that adds so many seconds to an iteration at most:
    the inverse of :meth:`~engine.profiles.latency.Latency.added_s`."""
    terms = latency.prefill
    left = seconds - terms.sequence
    read = latency.small.context * cached  # once, where that takes longer than to attend to it
    token, square = terms.token, terms.square
    attended = _root(square, token + 2 * square * cached, left)
    if 2 * square * attended * cached < read:
        attended = _root(square, token, left - read)
    return max(0, math.floor(min(attended, 1e15)))


def _root(square: float, token: float, seconds: float) -> float:
    """The positive solution of ``square x^2 + token x = seconds``."""
    if seconds <= 0:
        return 0.0
    if token <= 0 and square <= 0:
        return math.inf
    return 2 * seconds / (token + math.sqrt(token * token + 4 * square * seconds))
