"""Stored tokens that some queries attend to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.serving.instances.partial import Partial, partial_attention
from engine.serving.instances.stored import pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.serving.instances.step import Run


class Sight:
    """All of them stand before the first query in the text, or are a single query's own.

    Args:
        runs: of one text, in one pool; the first query sees none before its window.
        places: of the queries.
        window: tokens that attention looks back; 0: all.

    Attributes:
        queries: how many.
    """

    def __init__(
        self, runs: Sequence[Run], places: Sequence[int], window: int, device: torch.device
    ) -> None:
        self.queries = len(places)
        self._pieces = pieces(runs, device) if runs else []
        self._seen: list[Tensor | None] = [None] * len(self._pieces)
        if window and len(places) > 1:
            own = torch.tensor(places, device=device)
            stored = [torch.tensor(each.places(), device=device) for each in self._pieces]
            self._seen = [own[:, None] - each < window for each in stored]

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, so_far: Partial | None) -> Partial:
        """Queries [T, Hkv, G, Dh] to a layer's keys and values [1, Hkv, slots, Dh].

        Args:
            so_far: what it is added to; None: there is something to be seen.
        """
        for piece, seen in zip(self._pieces, self._seen, strict=True):
            more = partial_attention(q, piece.of(keys), piece.of(values), seen=seen)
            if so_far is None:
                so_far = more
            else:
                so_far.merge(more)
        assert so_far is not None, "there is something to be seen"
        return so_far
