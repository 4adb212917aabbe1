"""How many blocks of keys and values there is memory for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import torch

from collectors.errors import UsageError
from engine.scheduling.limits import Limits, MakeRoom

if TYPE_CHECKING:
    from engine.models.config import ModelConfig
    from engine.serving.config import ServingConfig

BLOCK_TOKENS = 16
_GPU_SHARE = 0.9  # of the memory that is free once the model is there
_CPU_SHARE = 0.25
_SPARE_BATCHES = 4  # on a CPU: full batches of longest requests; more would never be needed
_IDLE_SHARE = 0.05  # of the device's blocks, kept free for bursts by proactive swapping


def limits_of(
    config: ServingConfig,
    model: ModelConfig,
    *,
    max_len: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Limits:
    """Of one engine, or one of its instances.

    Raises:
        UsageError: one request of ``max_len`` tokens has no room on all of them.
    """
    block_bytes = _block_bytes(model, dtype, config)
    if config.kv_tokens is None:
        blocks = _free_bytes(device, config.ranks * config.instances) // block_bytes
        if device.type == "cpu":
            blocks = min(blocks, _blocks_of(_SPARE_BATCHES * config.max_batch * max_len))
    else:
        blocks = config.kv_tokens // BLOCK_TOKENS
    if blocks * config.instances < _blocks_of(max_len):
        raise UsageError(
            f"no room for the keys and values of one request of {max_len} tokens",
            where=f"{device}, {blocks * BLOCK_TOKENS} tokens",
            remedy="give a smaller --max-len, or a larger --kv-tokens",
        )
    swaps = config.make_room is not MakeRoom.RECOMPUTE
    host_blocks = int(config.swap_gb * 1e9 / config.ranks) // block_bytes if swaps else 0
    return Limits(
        max_batch=config.max_batch,
        blocks=blocks,
        block_tokens=BLOCK_TOKENS,
        host_blocks=host_blocks,
        prefill_tokens=config.prefill_tokens,
        make_room=config.make_room if host_blocks else MakeRoom.RECOMPUTE,
        idle_blocks=int(blocks * _IDLE_SHARE),
    )


def _blocks_of(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)


def _block_bytes(model: ModelConfig, dtype: torch.dtype, config: ServingConfig) -> int:
    """On the rank that has most layers."""
    layers, heads = -(-model.n_layers // config.pp), model.n_kv_heads // config.tp
    values = 2 * layers * heads * model.head_dim * BLOCK_TOKENS
    return int(values * dtype.itemsize)


def _free_bytes(device: torch.device, ranks: int) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * _GPU_SHARE)
    return int(psutil.virtual_memory().available * _CPU_SHARE / ranks)
