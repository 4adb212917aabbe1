"""The whole state of training, gathered from its shards and cut into them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from collectors.errors import DataError
from engine.models.sharding import full_shape, gather, shard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from engine.groups import Group
    from engine.training.optimizer import Optimizer

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Whole tensors, the same for every way of sharding.

    Attributes:
        weights: by parameter name.
        moments: the optimizer's, by ``<parameter name>/exp_avg`` and ``.../exp_avg_sq``.
    """

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]


@torch.no_grad()
def gather_state(model: nn.Module, optimizer: Optimizer, tp: Group) -> TrainingState:
    """Collect the state on the CPU; every rank of ``tp`` calls this."""
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        weights[name] = gather(parameter.detach(), parameter, tp).cpu()
        for moment in _MOMENTS:
            part = optimizer.rule.state[parameter][moment]
            moments[f"{name}/{moment}"] = gather(part, parameter, tp).cpu()
    return TrainingState(weights=weights, moments=moments)


@torch.no_grad()
def restore_state(
    state: TrainingState, model: nn.Module, optimizer: Optimizer, tp: Group, *, step: int
) -> None:
    """Take this rank's shards of ``state``, which was gathered after ``step``.

    Raises:
        DataError: a tensor is missing or of another shape.
    """
    for name, parameter in model.named_parameters():
        shape = full_shape(parameter, tp)
        parameter.copy_(shard(_find(state.weights, name, shape), parameter, tp))
        slots = optimizer.rule.state[parameter]
        slots["step"] = torch.tensor(float(step), device=parameter.device)
        for moment in _MOMENTS:
            full = _find(state.moments, f"{name}/{moment}", shape)
            slots[moment] = torch.empty_like(parameter).copy_(shard(full, parameter, tp))


def _find(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None or tuple(tensor.shape) != shape:
        found = "nothing" if tensor is None else f"shape {tuple(tensor.shape)}"
        raise DataError(f"the checkpoint holds {found} for {name}, the run needs {shape}")
    return tensor
