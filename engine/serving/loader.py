"""A model's weights, ready to run on one rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.models.huggingface import load_pretrained
from engine.models.sharding import shard
from engine.models.transformer import Transformer

if TYPE_CHECKING:
    from pathlib import Path

    from engine.models.partition import Part
    from engine.overlap.tensor_parallel import TensorParallelGroup


def load_model(
    directory: Path,
    device: torch.device,
    tp: TensorParallelGroup | None = None,
    part: Part | None = None,
) -> Transformer:
    """Read config and weights; float32 on the CPU, elsewhere as the weights are.

    Args:
        tp: the ranks that share it; each reads all and keeps its part.
        part: the layers that are wanted; None: all.

    Raises:
        UsageError: the directory is no model directory.
        DataError: a file in it is missing, corrupt or of a kind that opsuite cannot run.
    """
    config, state = load_pretrained(directory)
    if config.tie_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    network = Transformer(config, tp=tp, part=part)
    dtype = torch.float32 if device.type == "cpu" else next(iter(state.values())).dtype
    parameters = dict(network.named_parameters(remove_duplicate=False))
    network.load_state_dict(
        {name: shard(state[name], parameter, tp) for name, parameter in parameters.items()}
    )
    return network.to(device, dtype).eval().requires_grad_(requires_grad=False)
