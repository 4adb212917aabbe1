"""Whole tensors and the parts of them that tensor-parallel ranks hold.

A parallel layer marks its parameters with ``shard_dim``: the dimension cut into tp equal parts.
Unmarked parameters are whole on every rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from engine.groups.group import Group


def shard_dim(parameter: Tensor) -> int | None:
    """The dimension along which ``parameter`` is one part of a whole, or None."""
    return getattr(parameter, "shard_dim", None)


def mark_partial(parameter: Tensor) -> None:
    """Say of a whole parameter that each rank applies it to its own features only: then its
    gradient is the sum of theirs, whether tokens are split or not."""
    parameter.partial = True  # type: ignore[attr-defined]


def is_partial(parameter: Tensor) -> bool:
    """Whether it was so marked."""
    return getattr(parameter, "partial", False)


def full_shape(parameter: Tensor, tp: Group | None) -> tuple[int, ...]:
    """The shape of the whole tensor that ``parameter`` is a part of."""
    shape = list(parameter.shape)
    dim = shard_dim(parameter)
    if dim is not None and tp is not None:
        shape[dim] *= tp.size
    return tuple(shape)


def shard(full: Tensor, parameter: Tensor, tp: Group | None) -> Tensor:
    """This rank's part of ``full``, cut as ``parameter`` is."""
    dim = shard_dim(parameter)
    if dim is None or tp is None:
        return full
    return full.chunk(tp.size, dim)[tp.rank]


def gather(part: Tensor, parameter: Tensor, tp: Group | None) -> Tensor:
    """The whole of which ``part`` (cut as ``parameter`` is) is this rank's; a collective call."""
    dim = shard_dim(parameter)
    if dim is None or tp is None or tp.size == 1:
        return part
    return torch.cat(tp.all_gather(part.contiguous()), dim)
