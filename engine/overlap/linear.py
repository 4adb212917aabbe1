"""Layers whose weight is split over a tensor-parallel group.

Each holds its rank's shard as ``weight``; the parameter says along which dimension of the whole it
was cut (``weight.shard_dim``), so that sharding and gathering need no knowledge of the model. With
a group of one (or None) each is the plain layer.

Activations are flat, [tokens, features]. ``split`` says that each rank holds its part of the
tokens between layers (see :mod:`engine.overlap.operators`); else every rank holds all of them.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import nn

from engine.overlap.operators import (
    all_gather_matmul,
    all_reduce,
    matmuls_all_reduce,
    matmuls_reduce_scatter,
    reduce_scatter,
    replicated_matmul,
)

if TYPE_CHECKING:
    from torch import Tensor

    from engine.overlap.tensor_parallel import TensorParallelGroup


class ShardedLayer(nn.Module):
    """A layer with one sharded ``weight``, left uninitialised."""

    shard_dim: ClassVar[int]

    def __init__(self, rows: int, columns: int, tp: TensorParallelGroup | None) -> None:
        super().__init__()
        shape = [rows, columns]
        parts = tp.size if tp else 1
        assert shape[self.shard_dim] % parts == 0, f"{shape} does not split into {parts}"
        shape[self.shard_dim] //= parts
        self.tp = tp if parts > 1 else None
        self.weight = nn.Parameter(torch.empty(shape))
        self.weight.shard_dim = self.shard_dim  # type: ignore[attr-defined]


class ColumnParallelLinear(ShardedLayer):
    """``y = x W^T + b`` with the output features split: y has all tokens, this rank's features."""

    shard_dim = 0

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        tp: TensorParallelGroup | None = None,
        *,
        bias: bool = False,
    ) -> None:
        super().__init__(out_features, in_features, tp)
        self.bias = None
        if bias:
            self.bias = nn.Parameter(torch.empty(self.weight.shape[0]))
            self.bias.shard_dim = 0  # type: ignore[attr-defined]

    def forward(self, x: Tensor, *, split: bool = False) -> Tensor:
        """``[tokens (/ tp if split), in_features]`` to ``[tokens, out_features / tp]``."""
        [product] = column_parallel(x, self, split=split)
        return product


class RowParallelLinear(ShardedLayer):
    """``y = x W^T`` with the input features split: x holds all tokens, this rank's features."""

    shard_dim = 1

    def __init__(
        self, in_features: int, out_features: int, tp: TensorParallelGroup | None = None
    ) -> None:
        super().__init__(out_features, in_features, tp)

    def forward(self, x: Tensor, *, split: bool = False) -> Tensor:
        """``[tokens, in_features / tp]`` to ``[tokens (/ tp if split), out_features]``."""
        return row_parallel((x, self), split=split)


class VocabParallelEmbedding(ShardedLayer):
    """An embedding table with the vocabulary split; every rank gives all tokens."""

    shard_dim = 0

    def __init__(
        self, vocab_size: int, hidden_size: int, tp: TensorParallelGroup | None = None
    ) -> None:
        super().__init__(vocab_size, hidden_size, tp)

    def forward(self, tokens: Tensor, *, split: bool = False) -> Tensor:
        """Token ids ``[tokens]`` to ``[tokens (/ tp if split), hidden_size]``."""
        if self.tp is None:
            return F.embedding(tokens, self.weight)
        rows = self.weight.shape[0]
        local = tokens - self.tp.rank * rows
        elsewhere = (local < 0) | (local >= rows)
        mine = F.embedding(local.masked_fill(elsewhere, 0), self.weight)
        term = mine.masked_fill(elsewhere.unsqueeze(-1), 0.0)
        return (reduce_scatter if split else all_reduce)(term, self.tp)


def column_parallel(
    x: Tensor, *layers: ColumnParallelLinear, split: bool = False
) -> tuple[Tensor, ...]:
    """Several column-parallel layers on one input: one gathering serves them all."""
    tp, weights = layers[0].tp, [layer.weight for layer in layers]
    if tp is None:
        return tuple(F.linear(x, layer.weight, layer.bias) for layer in layers)
    operator = all_gather_matmul if split else replicated_matmul
    products = operator(x, weights, tp)
    return tuple(
        product if layer.bias is None else product + layer.bias
        for product, layer in zip(products, layers, strict=True)
    )


def row_parallel(*pairs: tuple[Tensor, RowParallelLinear], split: bool = False) -> Tensor:
    """The sum of several row-parallel layers, each of its own input: one reducing serves all."""
    tp, factors = pairs[0][1].tp, [(x, layer.weight) for x, layer in pairs]
    if tp is None:
        return reduce(torch.add, (F.linear(x, weight) for x, weight in factors))
    operator = matmuls_reduce_scatter if split else matmuls_all_reduce
    return operator(factors, tp)
