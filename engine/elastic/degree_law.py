"""How long iterations take at degrees of parallelism that nobody measured, by those that were.

Work is shared, and the ring adds to it. On ``d`` instances a term is

- of work (a token, a token squared, a token of context, a sequence): ``alone / d + ring (d - 1) /
  d``: every instance computes its part, and of all keys, values or queries that come to it the part
  ``(d - 1) / d`` comes from others;
- of every iteration: ``alone + ring (d - 1) / d``: all instances read their weights at the same
  time, and wait for what others send.

Of one degree alone, the ring's part cannot be told: work is then supposed to be shared without
loss, which flatters higher degrees, and lower ones not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.profiles.latency import DecodeTerms, Latency, PrefillTerms
from engine.profiles.non_negative import non_negative

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class _Term:
    """Attributes:
    shared: whether it is work, else it is of every iteration.
    """

    alone: float
    ring: float
    shared: bool

    def at(self, dop: int) -> float:
        """Seconds."""
        alone, ring = _columns(dop, shared=self.shared)
        return self.alone * alone + self.ring * ring


class DegreeLaw:
    """Fitted to latencies by the least squares of the terms' relative errors.

    Args:
        measured: by degree of parallelism; one at least.
    """

    def __init__(self, measured: Mapping[int, Latency]) -> None:
        assert measured, "something was measured"
        self._measured = dict(measured)

    def latency(self, dop: int) -> Latency:
        """Of so many instances."""
        nearest = min(self._measured, key=lambda each: (abs(each - dop), each))

        def term(get: Callable[[Latency], float], *, shared: bool = True) -> float:
            return self._term(get, shared=shared).at(dop)

        def decodes(get: Callable[[Latency], DecodeTerms]) -> DecodeTerms:
            return DecodeTerms(
                constant=term(lambda each: get(each).constant, shared=False),
                context=term(lambda each: get(each).context),
                sequence=term(lambda each: get(each).sequence),
            )

        return Latency(
            prefill=PrefillTerms(
                constant=term(lambda each: each.prefill.constant, shared=False),
                token=term(lambda each: each.prefill.token),
                square=term(lambda each: each.prefill.square),
                sequence=term(lambda each: each.prefill.sequence),
            ),
            small=decodes(lambda each: each.small),
            large=decodes(lambda each: each.large),
            large_batch=self._measured[nearest].large_batch,
        )

    def _term(self, get: Callable[[Latency], float], *, shared: bool) -> _Term:
        values = np.array([get(each) for each in self._measured.values()])
        columns = np.array([_columns(dop, shared=shared) for dop in self._measured])
        if len(values) == 1:
            columns = columns[:, :1]  # the ring's part cannot be told
        scale = np.where(values > 0, values, max(values.max(), 1e-300))
        found = non_negative(columns / scale[:, None], values / scale)
        ring = float(found[1]) if len(found) > 1 else 0.0
        return _Term(alone=float(found[0]), ring=ring, shared=shared)


def _columns(dop: int, *, shared: bool) -> tuple[float, float]:
    return (1 / dop if shared else 1.0), (dop - 1) / dop
