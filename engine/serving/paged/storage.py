"""Where keys and values lie: on the device by heads, on the host by blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models.config import ModelConfig
    from engine.scheduling.limits import Limits


class Storage:
    """Preallocated; memory is taken by the operating system when a block is first written.

    L layers and Hkv key heads of this rank, N blocks of T tokens, Dh a head's width.

    Attributes:
        spare_block: one more than there are, which is nobody's.
        keys, values: of each layer [1, Hkv, N T, Dh]: neighbouring blocks are one view.
        device_blocks: all of them, [L, 2, Hkv, N, T Dh].
        host_blocks: [host's N, L, 2, Hkv, T Dh], pinned where the device is a GPU: each block is
            one piece of memory.
    """

    def __init__(
        self,
        config: ModelConfig,
        limits: Limits,
        *,
        device: torch.device,
        dtype: torch.dtype,
        tp: int = 1,
        layers: int | None = None,
    ) -> None:
        heads, size = config.n_kv_heads // tp, limits.block_tokens * config.head_dim
        per_block = (layers or config.n_layers, 2, heads)
        self.spare_block = limits.blocks
        shape = (*per_block, limits.blocks + 1, size)
        self.device_blocks = torch.empty(shape, device=device, dtype=dtype)
        self.host_blocks = torch.empty(
            (limits.host_blocks, *per_block, size), dtype=dtype, pin_memory=device.type == "cuda"
        )
        tokens = (limits.blocks + 1) * limits.block_tokens
        by_token = self.device_blocks.view(*per_block, tokens, config.head_dim)
        self.keys: list[Tensor] = [layer[0:1] for layer in by_token]
        self.values: list[Tensor] = [layer[1:2] for layer in by_token]
