"""Where in its segment an instance puts what it gives to others: the same for all who know the
step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from engine.peers.memory import ALIGNMENT
from engine.serving.instances.partial import Partial

if TYPE_CHECKING:
    from torch import Tensor

    from engine.serving.instances.layout import Layout
    from engine.serving.instances.pool import PoolShape

_TURNS = 2
_FLOAT = torch.float32.itemsize


class Stage:
    """Of one instance in one step.

    Layers take turns with two parts. Whoever writes in layer l overwrites what it gave in l - 2,
    which nobody reads any more: it has seen since then that all others had come to l - 1.

    Its memory is the same throughout the step.

    Attributes:
        nbytes: that it takes.
    """

    def __init__(self, layout: Layout, instance: int, shape: PoolShape) -> None:
        self._shape = shape
        self._group = shape.queries // shape.heads
        self._tokens = layout.stripes[layout.group.index(instance)]
        asked = len(layout.far_rows(instance, last=False))
        self._keys = 0
        self._values = _aligned(self._tokens * shape.row_bytes)
        self._questions = self._values + _aligned(self._tokens * shape.row_bytes)
        row = shape.queries * shape.width
        end = self._questions + _aligned(asked * row * shape.dtype.itemsize)
        self._answers: dict[int, tuple[int, int]] = {}
        for master in layout.group:
            rows = len(layout.rows_for(instance, master, last=False))
            sums = end + _aligned(rows * row * _FLOAT)
            self._answers[master] = (end, sums)
            end = sums + _aligned(rows * shape.queries * _FLOAT)
        self._part = end
        self._views: dict[tuple[int, int, tuple[int, ...]], Tensor] = {}
        self.nbytes = _TURNS * end

    def stripe(self, memory: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, Hkv, T, Dh] of its stripe."""
        sizes = (1, self._shape.heads, self._tokens, self._shape.width)
        keys, values = (
            self._view(memory, layer, at, sizes, self._shape.dtype)
            for at in (self._keys, self._values)
        )
        return keys, values

    def questions(self, memory: Tensor, layer: int, rows: int) -> Tensor:
        """Its queries that concern others, [rows, Hkv, G, Dh]."""
        sizes = (rows, self._shape.heads, self._group, self._shape.width)
        return self._view(memory, layer, self._questions, sizes, self._shape.dtype)

    def answers(self, memory: Tensor, layer: int, master: int, rows: int) -> Partial:
        """What it answers to a master."""
        out, sums = self._answers[master]
        sizes = (rows, self._shape.heads, self._group)
        return Partial(
            self._view(memory, layer, out, (*sizes, self._shape.width), torch.float32),
            self._view(memory, layer, sums, sizes, torch.float32),
        )

    def _view(
        self, memory: Tensor, layer: int, at: int, sizes: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        key = (layer % _TURNS, at, sizes)
        if key not in self._views:
            begin = layer % _TURNS * self._part + at
            end = begin + math.prod(sizes) * dtype.itemsize
            self._views[key] = memory[begin:end].view(dtype).view(sizes)
        return self._views[key]


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
