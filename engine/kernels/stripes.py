"""Stripes of texts in flat tensors, and how attention between them is cut into tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Stripe:
    """Tokens of one text, equally far apart in it, that lie one behind another in a tensor.

    Attributes:
        row: of the first of them in the tensor.
        tokens: how many.
        place: of the first of them in the text.
        step: between them in the text: d in a ring of d instances, 1 for a run of cached tokens.
    """

    row: int
    tokens: int
    place: int
    step: int = 1


@dataclass(frozen=True, slots=True)
class Meeting:
    """One text's queries, and those of its keys that have come to them.

    Attributes:
        keys: no two of them share a token. A query sees those that do not stand behind it.
    """

    queries: Stripe
    keys: Sequence[Stripe]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """Tiles of queries, each with the keys that they meet: the same for all layers.

    Attributes:
        rows: queries of a tile, at most.
        tiles: [T, 6] (int32): row, tokens, place and step of its queries, and its first stripe of
            keys and the one behind its last. Those that see most begin first.
        keys: row, tokens, place and step of the stripes of keys, [S, 4] (int32).
    """

    rows: int
    tiles: Tensor
    keys: Tensor

    @classmethod
    def of(cls, meetings: Iterable[Meeting], *, rows: int, device: torch.device) -> Tiling:
        """Of a batch; texts of no queries or no keys are left out."""
        tiles: list[tuple[int, ...]] = []
        keys: list[tuple[int, ...]] = []
        for meeting in meetings:
            met = [(k.row, k.tokens, k.place, k.step) for k in meeting.keys if k.tokens]
            if met:
                seen = len(keys), len(keys) + len(met)
                tiles += ((*tile, *seen) for tile in _cut(meeting.queries, rows))
                keys += met
        tiles.sort(key=lambda tile: -tile[2])
        return cls(
            rows=rows,
            tiles=torch.tensor(tiles, device=device, dtype=torch.int32).view(-1, 6),
            keys=torch.tensor(keys, device=device, dtype=torch.int32).view(-1, 4),
        )


def _cut(queries: Stripe, rows: int) -> Iterable[tuple[int, int, int, int]]:
    for begin in range(0, queries.tokens, rows):
        tokens = min(rows, queries.tokens - begin)
        place = queries.place + begin * queries.step
        yield queries.row + begin, tokens, place, queries.step
