"""What one rank holds of the model's parameters: parts of whole tensors, cut by tp and by dp.

A model that computes in bfloat16 is trained in float32 all the same (Micikevicius et al. 2018): the
optimizer works on originals, to which gradients are added as they come, and the model computes with
copies. Where there is data parallelism FSDP keeps these, else they are kept here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch.distributed.tensor import DTensor

from engine.models.sharding import is_partial, shard_dim

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class TpCut:
    """How the ranks of a tensor-parallel group share a parameter.

    Attributes:
        dim: the dimension that was cut; None: each holds the whole.
        partial: whether each applies the whole to its own features only.
    """

    dim: int | None
    partial: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Weight:
    """One parameter. The optimizer sees :attr:`part` alone, whoever cut it.

    Attributes:
        name: in the whole model, as Hugging Face calls it.
        parameter: the module's own; data parallelism makes it a DTensor.
        part: this rank's part of its values: in the same memory, or the originals of a copy.
        cut: how tensor parallelism cut it.
    """

    name: str
    parameter: nn.Parameter
    part: Tensor
    cut: TpCut

    @property
    def tp_dim(self) -> int | None:
        """The dimension that tensor parallelism cut, or None."""
        return self.cut.dim

    @property
    def tp_shape(self) -> tuple[int, ...]:
        """Of what the ranks of a data-parallel group hold together."""
        return tuple(self.parameter.shape)

    def whole_shape(self, tp: int) -> tuple[int, ...]:
        """Of the whole tensor, which ``tp`` ranks share."""
        shape = list(self.tp_shape)
        if self.tp_dim is not None:
            shape[self.tp_dim] *= tp
        return tuple(shape)

    @property
    def is_original(self) -> bool:
        """Whether :attr:`part` lies apart, and the model computes with a copy of it."""
        return self.part.dtype != self.parameter.dtype

    def take_gradient(self) -> None:
        """Let :attr:`part` have its part of the gradient."""
        gradient = self.parameter.grad
        if self.is_original:
            self._add(gradient)
        elif self.part is not self.parameter:
            self.part.grad = _local(gradient) if gradient is not None else None

    def _add(self, gradient: Tensor | None) -> None:
        """Micro-batches are added up in the originals' precision."""
        if gradient is None:
            return
        self.parameter.grad = None
        if self.part.grad is None:
            self.part.grad = gradient.to(self.part.dtype)
        else:
            self.part.grad.add_(gradient)

    def drop_gradient(self) -> None:
        """Begin anew."""
        self.parameter.grad = None
        self.part.grad = None


def tp_cuts(modules: Sequence[nn.Module]) -> dict[str, TpCut]:
    """How tensor parallelism cut each parameter; to be asked before dp wraps them."""
    return {
        name: TpCut(dim=shard_dim(parameter), partial=is_partial(parameter))
        for module in modules
        for name, parameter in module.named_parameters()
    }


def weights_of(
    modules: Sequence[nn.Module],
    cuts: Mapping[str, TpCut],
    dtype: torch.dtype = torch.float32,
) -> list[Weight]:
    """This rank's weights, those of all its parts of the model in order.

    Args:
        dtype: of what the modules compute with.
    """
    return [
        _weight(name, parameter, cuts[name], dtype)
        for module in modules
        for name, parameter in module.named_parameters()
    ]


def _weight(name: str, parameter: nn.Parameter, cut: TpCut, dtype: torch.dtype) -> Weight:
    if isinstance(parameter, DTensor):
        return Weight(name=name, parameter=parameter, part=_local(parameter), cut=cut)
    if parameter.dtype == dtype:
        return Weight(name=name, parameter=parameter, part=parameter, cut=cut)
    original = parameter.detach()
    parameter.data = original.to(dtype)
    weight = Weight(name=name, parameter=parameter, part=original, cut=cut)
    parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
        lambda _: weight.take_gradient()
    )
    return weight


@torch.no_grad()
def _local(tensor: Tensor) -> Tensor:
    """In the memory of ``tensor``."""
    return cast("DTensor", tensor).to_local().detach()
