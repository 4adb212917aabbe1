"""How likely a job is to end soon, given how much it has given: learnt from jobs as they run."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FORGET = 3_000  # jobs until what was seen counts a third (1 / e)
_EVERY = 64  # jobs from one new estimate to the next
_DOUBT = 400.0, 4.0, 4_000.0  # at first, and from where to where it may be
_ENOUGH = 5.0  # ends that a step needs to say whether classes differ
_OCTAVE = 4  # steps, and classes of prompts, from one power of two to the next
_OCTAVES = 14
_NOBODY = 1e-12
_FEW = 0.01


def _edges() -> list[int]:
    """0, 1, 2 ... 8, 10, 12, 14, 16, 20, 24 ..."""
    parts = range(_OCTAVE, 2 * _OCTAVE)
    return [
        0,
        *sorted({2**octave * part // _OCTAVE for octave in range(_OCTAVES) for part in parts}),
    ]


class Hazards:
    """Of ending in each step, for each class of prompt lengths (a life table; Kaplan, Meier 1958).

    A job is seen in every step that it passes, so those that still run, which are the long ones,
    count for as far as they have come. Classes about which little is known are drawn towards all
    jobs together, and all jobs towards a heavy tail: who has given ``n`` is expected to give half
    as many again.

    How far classes are drawn depends on whether they differ (an empirical Bayes estimate, by the
    moments of a beta-binomial distribution): where prompts say nothing of answers, their noise
    would disturb the order; where they do, the longest prompts may have by far the longest answers.

    Attributes:
        version: of the estimates; another when they have changed.
        doubt: jobs of its own that a class needs to weigh as much as all jobs.
    """

    def __init__(self) -> None:
        self.edges = _edges()
        self.version = 0
        self.doubt = _DOUBT[0]
        steps = len(self.edges) - 1
        edges = np.array(self.edges, dtype=np.float64)
        self._widths = np.diff(edges)
        self._prior = 1.0 - (edges[:-1] / edges[1:]) ** 3
        self._prior[0] = 0.5
        self._prior[-1] = 1.0
        classes = _OCTAVE * _OCTAVES
        self._seen = np.zeros((classes, steps))
        self._ended = np.zeros((classes, steps))
        self._finished = 0
        self._tables: dict[int, _Table] = {}

    def class_of(self, prompt_tokens: int) -> int:
        """Of prompts that are about as long."""
        return min(round(_OCTAVE * math.log2(prompt_tokens)), len(self._seen) - 1)

    def step_of(self, given: int) -> int:
        """In which a job is that has given so many tokens."""
        return min(bisect_right(self.edges, given), len(self._widths)) - 1

    def passed(self, kind: int, first: int, step: int) -> None:
        """A job has come from one step to another without an end."""
        self._seen[kind, first:step] += 1.0

    def ended(self, kind: int, step: int, given: int) -> None:
        """A job that was last seen in this step has ended after so many tokens."""
        last = self.step_of(given - 1) if given else 0
        self._seen[kind, step : last + 1] += 1.0
        self._ended[kind, last] += 1.0
        self._finished += 1
        if self._finished % _EVERY == 0:
            self._seen *= 1.0 - _EVERY / _FORGET
            self._ended *= 1.0 - _EVERY / _FORGET
            self._compare()
            self._tables.clear()
            self.version += 1

    def price(self, kind: int, step: int, first: float = 0.0) -> float:
        """Tokens per job that ends, at best: the inverse of the Gittins index.

        Args:
            first: what is to be done before, in tokens' time: a prefill.
        """
        table = self._table(kind)
        return table.price(step, first) if first else table.prices[step]

    def left(self, kind: int, step: int) -> float:
        """Tokens that are expected still."""
        return self._table(kind).left[step]

    def most(self, kind: int, step: int) -> float:
        """Tokens within which all but one of a hundred end."""
        return self._table(kind).most[step]

    def length(self, kind: int, given: int) -> float:
        """Tokens that are expected in all of one that has given so many and not ended."""
        step, total, edges = self.step_of(given), self._table(kind).total, self.edges
        if step + 1 == len(total):
            return max(total[step], given)
        part = (given - edges[step]) / (edges[step + 1] - edges[step])
        return max(total[step] + part * (total[step + 1] - total[step]), given)

    def _compare(self) -> None:
        """How much more the classes differ than chance would have it."""
        seen, ended = self._seen.sum(axis=0), self._ended.sum(axis=0)
        every = ended / np.maximum(seen, _NOBODY)
        counts = (ended >= _ENOUGH) & (every < 0.95) & (self._seen >= 2)
        off = (self._ended - self._seen * every) ** 2
        spread = np.maximum(self._seen * every * (1 - every), _NOBODY)
        more = float((off / spread - 1).sum(where=counts))
        _, least, most = _DOUBT
        size = float((self._seen - 1).sum(where=counts))
        self.doubt = most if size >= most * more else max(least, size / more)

    def _table(self, kind: int) -> _Table:
        table = self._tables.get(kind)
        if table is None:
            every = (self._ended.sum(axis=0) + self._prior) / (self._seen.sum(axis=0) + 1.0)
            own = (self._ended[kind] + self.doubt * every) / (self._seen[kind] + self.doubt)
            table = self._tables[kind] = _Table(own, self._widths)
        return table


class _Table:
    """Of one class, as long as its estimates are the same."""

    __slots__ = ("_going", "_spent", "left", "most", "prices", "total")

    def __init__(self, hazards: NDArray[np.float64], widths: NDArray[np.float64]) -> None:
        going = np.concatenate(([1.0], np.cumprod(1.0 - np.minimum(hazards, 1.0))))
        self._going = np.maximum(going, _NOBODY)
        spent = widths * (self._going[:-1] + self._going[1:]) / 2
        self._spent = np.concatenate(([0.0], np.cumsum(spent)))
        self.left: list[float] = ((self._spent[-1] - self._spent) / self._going)[:-1].tolist()
        reached = np.concatenate(([0.0], np.cumsum(widths)))
        self.total: list[float] = (reached[:-1] + self.left).tolist()
        few = self._going[None, :] <= _FEW * self._going[:-1, None]
        few[:, -1] = True
        self.most: list[float] = (reached[few.argmax(axis=1)] - reached[:-1]).tolist()
        spent = self._spent[1:] - self._spent[:-1, None]
        ended = self._going[:-1, None] - self._going[1:]
        goals = np.where(ended > 0, spent / np.maximum(ended, _NOBODY), np.inf)
        self.prices: list[float] = goals.min(axis=1, where=spent > 0, initial=np.inf).tolist()

    def price(self, step: int, first: float) -> float:
        """With something to do before."""
        spent = self._spent[step + 1 :] - self._spent[step] + first * self._going[step]
        ended = self._going[step] - self._going[step + 1 :]
        return float(np.min(spent / np.maximum(ended, _NOBODY)))
