"""Data parallelism by torch's FSDP2, its communication begun early and waited for late.

Each rank holds its part of every weight, gradient and moment. Weights are gathered layer by layer
for forward, and stay for backward unless told (ZeRO-2, as MegaScale, section 3.2; else ZeRO-3);
gradients are scattered layer by layer while backward goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch.distributed as dist
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

    from engine.groups.group import Group
    from engine.groups.pending import Pending
    from engine.models.transformer import Transformer

_AHEAD = 2  # layers


class DataParallel:
    """The parts of the model that this rank trains, cut over its data-parallel group.

    Args:
        parts: become FSDP modules; their parameters, DTensors.
        mesh: one-dimensional, of the ranks of ``group``.
        overlap: whether communication is begun before it is needed and waited for when it is.
        keep_gathered: whether weights stay gathered between forward and backward.
        dtype: that the parts compute in; gradients are added up in float32.
    """

    def __init__(
        self,
        parts: Sequence[Transformer],
        *,
        group: Group,
        mesh: DeviceMesh,
        overlap: bool,
        keep_gathered: bool,
        dtype: torch.dtype,
    ) -> None:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        self._parts = [_cut(part, mesh, policy, keep_gathered=keep_gathered) for part in parts]
        self._overlap = overlap
        self._scattering: list[Pending] = []
        self._own_squares: list[Tensor] | None = None
        if group.synchronous:
            self._record_in(group)
        if overlap:
            for part in parts:
                _look_ahead(part)

    def begin(self) -> None:
        """Before the step's data is fetched: the first weights are on their way meanwhile."""
        if not self._overlap:
            return
        for part in self._parts[:1]:
            blocks = cast("Any", part).blocks
            for module in (part, *blocks[:_AHEAD]):
                module.unshard(async_op=True)

    def will_scatter(self, *, last: bool) -> None:
        """Whether the backward to come is the last of the step: before, gradients add up."""
        for part in self._parts:
            part.set_requires_gradient_sync(last)
            part.set_reshard_after_backward(last)

    def finish(self) -> None:
        """Wait for the gradients' means."""
        for pending in self._scattering:
            pending.wait()
        self._scattering.clear()

    def take_own_norm(self) -> float:
        """Norm of the gradient that this rank has given to the others since it was asked last, from
        the second call on; 0 where FSDP communicates by itself."""
        squares, self._own_squares = self._own_squares, []
        return float(torch.stack(squares).sum().sqrt()) if squares else 0.0

    def scatters(self, gradient: Tensor) -> None:
        """This rank gives its gradient to the others."""
        if self._own_squares is not None:
            self._own_squares.append(torch.linalg.vector_norm(gradient).square())

    def _record_in(self, group: Group) -> None:
        gather = _Gather(group, wait=not self._overlap)
        scatter = _Scatter(group, self._scattering, self.scatters, wait=not self._overlap)
        for part in self._parts:
            for module in cast("torch.nn.Module", part).modules():
                if isinstance(module, FSDPModule):
                    module.set_custom_all_gather(gather)  # type: ignore[arg-type]
                    module.set_custom_reduce_scatter(scatter)  # type: ignore[arg-type]


def _cut(
    part: Transformer, mesh: DeviceMesh, policy: MixedPrecisionPolicy, *, keep_gathered: bool
) -> FSDPModule:
    for block in part.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=not keep_gathered)
    fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    return cast("FSDPModule", part)


def _look_ahead(part: Transformer) -> None:
    """Each layer has those after it gathered while it computes, in both directions."""
    blocks = [cast("FSDPModule", block) for block in part.blocks]
    for i, block in enumerate(blocks):
        block.set_modules_to_forward_prefetch(blocks[i + 1 : i + 1 + _AHEAD])
        block.set_modules_to_backward_prefetch(blocks[max(0, i - _AHEAD) : i][::-1])


class _Buffers:
    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _Gather(_Buffers):
    """FSDP's all-gather, of the recorded group; FSDP waits when the weights are needed."""

    def __init__(self, group: Group, *, wait: bool) -> None:
        self._group = group
        self._wait = wait

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> Pending:
        pending = self._group.start_all_gather(output_tensor, input_tensor)
        if self._wait:
            pending.wait()
        return pending


class _Scatter(_Buffers):
    """FSDP's reduce-scatter, of the recorded group, to a mean; nobody waits before the optimizer.

    FSDP takes a view of the result as the gradient at once. That is right as long as it does
    nothing with it: gradients of several micro-batches are added up before, not after.
    """

    def __init__(
        self,
        group: Group,
        scattering: list[Pending],
        scatters: Callable[[Tensor], None],
        *,
        wait: bool,
    ) -> None:
        self._group = group
        self._scattering = scattering
        self._scatters = scatters
        self._wait = wait

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: object,
        async_op: bool = False,
    ) -> None:
        self._scatters(input_tensor)
        input_tensor.div_(self._group.size)
        pending = self._group.start_reduce_scatter(output_tensor, input_tensor)
        self._scattering.append(pending)
        if self._wait:
            pending.wait()
