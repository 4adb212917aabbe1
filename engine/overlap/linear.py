"""Layers whose weight is split over a tensor-parallel group.

Each holds its rank's shard as ``weight``; the parameter says along which dimension of the whole it
was cut (``weight.shard_dim``), so that sharding and gathering need no knowledge of the model. With
a group of one (or None) each is the plain layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import nn

from engine.overlap.operators import copy_to_group, reduce_from_group

if TYPE_CHECKING:
    from torch import Tensor

    from engine.groups import Group


class ShardedLayer(nn.Module):
    """A layer with one sharded ``weight``, left uninitialised."""

    shard_dim: ClassVar[int]

    def __init__(self, rows: int, columns: int, tp: Group | None) -> None:
        super().__init__()
        shape = [rows, columns]
        parts = tp.size if tp else 1
        assert shape[self.shard_dim] % parts == 0, f"{shape} does not split into {parts}"
        shape[self.shard_dim] //= parts
        self.tp = tp
        self.weight = nn.Parameter(torch.empty(shape))
        self.weight.shard_dim = self.shard_dim  # type: ignore[attr-defined]


class ColumnParallelLinear(ShardedLayer):
    """``y = x W^T`` with the output features split: x replicated, y this rank's share."""

    shard_dim = 0

    def __init__(self, in_features: int, out_features: int, tp: Group | None = None) -> None:
        super().__init__(out_features, in_features, tp)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features / tp]``."""
        return F.linear(copy_to_group(x, self.tp), self.weight)


class RowParallelLinear(ShardedLayer):
    """``y = x W^T`` with the input features split: x this rank's share, y replicated."""

    shard_dim = 1

    def __init__(self, in_features: int, out_features: int, tp: Group | None = None) -> None:
        super().__init__(out_features, in_features, tp)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in_features / tp]`` to ``[..., out_features]``."""
        return reduce_from_group(F.linear(x, self.weight), self.tp)


class VocabParallelEmbedding(ShardedLayer):
    """An embedding table with the vocabulary split; tokens and result are replicated."""

    shard_dim = 0

    def __init__(self, vocab_size: int, hidden_size: int, tp: Group | None = None) -> None:
        super().__init__(vocab_size, hidden_size, tp)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids ``[...]`` to ``[..., hidden_size]``."""
        if self.tp is None or self.tp.size == 1:
            return F.embedding(tokens, self.weight)
        rows = self.weight.shape[0]
        local = tokens - self.tp.rank * rows
        elsewhere = (local < 0) | (local >= rows)
        mine = F.embedding(local.masked_fill(elsewhere, 0), self.weight)
        return reduce_from_group(mine.masked_fill(elsewhere.unsqueeze(-1), 0.0), self.tp)


def column_parallel(x: Tensor, *layers: ColumnParallelLinear) -> tuple[Tensor, ...]:
    """Several column-parallel layers on one input: one sum in backward serves them all."""
    shared = copy_to_group(x, layers[0].tp)
    return tuple(F.linear(shared, layer.weight) for layer in layers)
