"""What one rank holds of the model's parameters: parts of whole tensors, cut by tp and by dp."""

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
        part: this rank's part of its values, in the same memory.
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

    def take_gradient(self) -> None:
        """Let :attr:`part` have its part of the gradient."""
        gradient = self.parameter.grad
        if self.part is not self.parameter:
            self.part.grad = _local(gradient) if gradient is not None else None

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


def weights_of(modules: Sequence[nn.Module], cuts: Mapping[str, TpCut]) -> list[Weight]:
    """This rank's weights, those of all its parts of the model in order."""
    return [
        Weight(name=name, parameter=parameter, part=_part(parameter), cut=cuts[name])
        for module in modules
        for name, parameter in module.named_parameters()
    ]


def _part(parameter: nn.Parameter) -> Tensor:
    return _local(parameter) if isinstance(parameter, DTensor) else parameter


@torch.no_grad()
def _local(tensor: Tensor) -> Tensor:
    """In the memory of ``tensor``."""
    return cast("DTensor", tensor).to_local().detach()
