"""The two operators between replicated and sharded activations (Megatron-LM's f and g).

Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model
Parallelism", 2019, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from engine.groups import Group


class _CopyToGroup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:  # noqa: ANN401 - torch's context
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:  # noqa: ANN401 - torch's signature
        # Autograd may still own the incoming gradient: the sum goes into a copy.
        total = grads[0].clone(memory_format=torch.contiguous_format)
        return ctx.group.all_reduce(total), None


class _ReduceFromGroup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: Group) -> Tensor:  # noqa: ANN401 - torch's context
        ctx.mark_dirty(partial)
        return group.all_reduce(partial)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:  # noqa: ANN401
        return grads[0], None


def copy_to_group(tensor: Tensor, group: Group | None) -> Tensor:
    """A replicated activation entering sharded layers: identity forward, sum backward."""
    if group is None or group.size == 1:
        return tensor
    copied: Tensor = _CopyToGroup.apply(tensor, group)  # type: ignore[no-untyped-call]
    return copied


def reduce_from_group(partial: Tensor, group: Group | None) -> Tensor:
    """Partial sums leaving sharded layers: sum forward (in place), identity backward."""
    if group is None or group.size == 1:
        return partial
    total: Tensor = _ReduceFromGroup.apply(partial.contiguous(), group)  # type: ignore[no-untyped-call]
    return total
