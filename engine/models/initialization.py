"""Initial weights: the same whole model for a seed, however it is sharded."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import torch

from engine.models.sharding import full_shape, shard

if TYPE_CHECKING:
    from engine.groups.group import Group
    from engine.models.transformer import Transformer

_STD = 0.02  # GPT-2's and Llama's choice
_RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight")


@torch.no_grad()
def initialize(model: Transformer, seed: int, tp: Group | None = None) -> None:
    """Draw every weight from a generator of its own, seeded by ``seed`` and the weight's name,
    on the weight's device: CPUs and GPUs draw different numbers.

    Projections back into the residual stream are scaled by 1/sqrt(2 layers) (GPT-2).
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        generator = torch.Generator(parameter.device)
        generator.manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
        std = _STD
        if name.endswith(_RESIDUAL_OUTPUTS):
            std /= (2 * model.config.n_layers) ** 0.5
        shape = full_shape(parameter, tp)
        full = torch.randn(shape, generator=generator, device=parameter.device) * std
        parameter.copy_(shard(full, parameter, tp))
