"""Step 3: which prompts are computed together, by how many instances (LoongServe, section 5.3).

A dynamic programme over requests, sorted by the time that they take and their length, and over
instances, sorted by what is free: neighbours form batches, neighbours form groups. ``f[k][i]``, of
the first ``k`` instances and the first ``i`` requests, is the least of

- ``f[k - d][j] + cost_d(j, i)``: a group of ``d`` instances computes requests ``j`` to ``i``;
- ``f[k - 1][i]``: an instance is left out;
- ``f[k][i - 1] + skip_i``: a request waits, which costs more than any way to compute it.

LoongServe computes a batch at once: each of its requests is delayed by the time of all. Ours are
computed in slices of time, so a request is delayed by those before it and by itself only. Both
weigh a second's delay of a request by 1 / its length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from engine.elastic.information_base import InformationBase
    from engine.elastic.snapshot import Waiting

    Floats = NDArray[np.float64]

WINDOW = 48
"""Requests that are looked at: those that deserve it most. More could not begin at once."""
_EVERY_DEGREE = 8  # of parallelism; of more instances, powers of two only
_AFTER_ALL = 4.0  # times the time of all prompts: what it costs to wait
_LEFT_OUT, _WAITS = 0, 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Attributes:
    instances: a group, in the order of the programme.
    requests: those that it computes, in the order of the programme.
    """

    instances: tuple[int, ...]
    requests: tuple[Waiting, ...]


def form_batches(
    requests: Sequence[Waiting],
    free: Mapping[int, int],
    base: InformationBase,
    weights: Mapping[int, float] | None = None,
    price: float = 0.0,
) -> list[Batch]:
    """The best that neighbours can do. Requests in no batch wait, instances in none are left out.

    Args:
        requests: whoever deserves to run first comes first; those beyond the window wait.
        free: slots of each instance that may take part.
        weights: what a second's delay of a request costs, by number; by default 1 / its tokens.
        price: what a second of an instance costs: others want it, too.
    """
    if not requests or not free:
        return []
    return _Programme(requests[:WINDOW], free, base, weights, price).batches()


def degrees(most: int) -> list[int]:
    """Of parallelism that groups may have."""
    if most <= _EVERY_DEGREE:
        return list(range(1, most + 1))
    return [2**power for power in range(most.bit_length())]


class _Programme:
    def __init__(
        self,
        requests: Sequence[Waiting],
        free: Mapping[int, int],
        base: InformationBase,
        weights: Mapping[int, float] | None,
        price: float,
    ) -> None:
        alone = base.latency(1)
        self._requests = sorted(
            requests,
            key=lambda each: (alone.added_s(each.due, each.cached) * each.known, each.number),
        )
        self._degrees = np.array(degrees(len(free)))
        self._weights = np.array(
            [weights[r.number] if weights else 1 / r.known for r in self._requests]
        )
        self._count = len(requests)
        self._instances = self._sorted(free)
        self._costs = np.stack([self._cost(base, int(dop), price) for dop in self._degrees])
        needs = [each.known if not each.has_begun else each.due for each in self._requests]
        self._need = _sums(np.array(needs, dtype=np.float64))
        self._span = self._need[None, :] - self._need[:, None]
        self._free = _sums(np.array([free[each] for each in self._instances], dtype=np.float64))
        self._pins = self._pinned()
        all_s = self._work(base, 1).sum() + alone.prefill.constant
        self._skips = _sums((self._weights + price * len(free)) * _AFTER_ALL * all_s)

    def batches(self) -> list[Batch]:
        """By the choices that lead to the best."""
        best = self._fill()
        found: list[Batch] = []
        k, i = len(self._instances), self._count
        while k > 0 and i > 0:
            ways = self._ways(best, k)[:, :, i]
            dop, j = divmod(int(ways.argmin()), ways.shape[1])
            costs = (
                best[k - 1, i],
                best[k, i - 1] + self._skips[i] - self._skips[i - 1],
                ways[dop, j],
            )
            choice = int(np.argmin(costs))
            if choice == _WAITS:
                i -= 1
            elif choice == _LEFT_OUT:
                k -= 1
            else:
                begin = k - int(self._degrees[dop])
                found.append(Batch(tuple(self._instances[begin:k]), tuple(self._requests[j:i])))
                k, i = begin, j
        return found[::-1]

    def _fill(self) -> Floats:
        """``f``."""
        instances = len(self._instances)
        best = np.empty((instances + 1, self._count + 1))
        best[0] = self._skips
        for k in range(1, instances + 1):
            least = np.minimum(best[k - 1], self._ways(best, k).min(axis=(0, 1)))
            best[k] = np.minimum.accumulate(least - self._skips) + self._skips
        return best

    def _ways(self, best: Floats, k: int) -> Floats:
        """``[d, j, i]``: with a group that ends at instance ``k``; infinite where it has no room,
        or a holder is not in it."""
        dops = self._degrees[self._degrees <= k]
        ways: Floats = best[k - dops][:, :, None] + self._costs[: len(dops)]
        room = self._free[k] - self._free[k - dops]
        if self._need[-1] > room[0]:
            ways[self._span[None] > room[:, None, None]] = np.inf
        if self._pins:
            outside = np.zeros((len(dops), self._count + 1))
            for index, first, last in self._pins:
                outside[:, index + 1] = (first < k - dops) | (last >= k)
            before = outside.cumsum(axis=1)
            ways[before[:, None, :] > before[:, :, None]] = np.inf
        return ways

    def _cost(self, base: InformationBase, dop: int, price: float) -> Floats:
        """``[j, i]``: of a batch of the requests ``j`` to ``i``; infinite of none."""
        done = _sums(self._work(base, dop))
        weight, delayed = _sums(self._weights), _sums(self._weights * done[1:])
        begin_s = base.latency(dop).prefill.constant - done
        cost = begin_s[:, None] * (weight[None, :] - weight[:, None])
        cost += delayed[None, :] - delayed[:, None]
        cost += price * dop * (begin_s[:, None] + done[None, :])
        cost[np.tri(len(done), dtype=bool)] = np.inf
        return cost

    def _work(self, base: InformationBase, dop: int) -> Floats:
        """Seconds of each request."""
        latency = base.latency(dop)
        added = [latency.added_s(each.due, each.cached) for each in self._requests]
        return np.array(added, dtype=np.float64)

    def _sorted(self, free: Mapping[int, int]) -> list[int]:
        """Those that hold parts of prompts last, in the order of these; else the fullest first."""
        pins = {
            instance: index
            for index, each in enumerate(self._requests)
            if each.has_begun
            for instance, _ in each.held
        }
        return sorted(free, key=lambda each: (pins.get(each, -1), free[each], each))

    def _pinned(self) -> list[tuple[int, int, int]]:
        """Requests that have begun: their place, and of their holders the first and the last;
        one that is not there is beyond all."""
        places = {each: place for place, each in enumerate(self._instances)}
        found = []
        for index, each in enumerate(self._requests):
            if each.has_begun:
                holders = [places.get(instance, len(places)) for instance, _ in each.held]
                found.append((index, min(holders), max(holders)))
        return found


def _sums(values: Floats) -> Floats:
    """Of the first 0, 1, 2 ... of them."""
    return np.concatenate(([0.0], np.cumsum(values)))
