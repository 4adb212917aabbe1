"""Which choice is fastest: a search that is told times and says what to time next."""

from __future__ import annotations

from itertools import product
from statistics import median
from typing import TYPE_CHECKING

from engine.overlap.choices import Choice
from engine.overlap.kernels.tile_shape import DIRECTIONS, CommunicationShape, candidates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.overlap.choices import Operation

_ROUNDS = 3  # of each candidate, before the slower half is dropped
_LAST_ROUNDS = 9  # of the last ones, so that one lucky time does not decide
_LAST = 3


class Search:
    """Successive halving (Jamieson & Talwalkar 2016): each time the faster half goes on.

    All ranks of a group run it with the same times, those of the slowest rank, and so agree.
    """

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._seconds: dict[Choice, list[float]] = {choice: [] for choice in choices}
        self._left = list(choices)
        self._wanted = _ROUNDS

    def next(self) -> Choice | None:
        """What to time now; None: the search has ended."""
        while True:
            short = [each for each in self._left if len(self._seconds[each]) < self._wanted]
            if short:
                return min(short, key=lambda each: len(self._seconds[each]))
            if len(self._left) <= _LAST and self._wanted >= _LAST_ROUNDS:
                return None
            self._drop_the_slower()

    def _drop_the_slower(self) -> None:
        self._left.sort(key=self.seconds)
        self._left = self._left[: max(_LAST, -(-len(self._left) // 2))]
        self._wanted += _ROUNDS
        if len(self._left) <= _LAST:
            self._wanted = max(self._wanted, _LAST_ROUNDS)

    def tell(self, choice: Choice, seconds: float) -> None:
        """What a choice took, once."""
        self._seconds[choice].append(seconds)

    def seconds(self, choice: Choice) -> float:
        """Its median."""
        return median(self._seconds[choice])

    @property
    def best(self) -> Choice:
        """The fastest of those that are left."""
        return min(self._left, key=self.seconds)


def part_choices() -> list[Choice]:
    """All rows at once, or each rank's by themselves."""
    return [Choice(in_parts=False), Choice(in_parts=True)]


def cuda_choices(operation: Operation, itemsize: int, shared_limit: int) -> list[Choice]:
    """Of CUDA ranks: tiles, and for what is gathered also how it travels; how sums are made.

    Args:
        itemsize: bytes of an element of the operands.
        shared_limit: bytes of shared memory that a program may have.
    """
    if operation == "all_reduce":
        return part_choices()
    tiles = list(candidates(itemsize, shared_limit))
    if operation != "all_gather_matmul":
        return [Choice(tile=tile) for tile in tiles]
    ways = [
        CommunicationShape(splits=splits, direction=direction)
        for splits, direction in product((1, 2, 4, 8), DIRECTIONS)
    ]
    return [Choice(tile=tile, communication=way) for tile, way in product(tiles, ways)]
