"""Single tokens on a GPU: one launch over block tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.kernels.paged_attention import paged_attention

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.serving.paged.attention import Part
    from engine.serving.paged.cache import PagedCache


class KernelSingles:
    """One token each of several sequences.

    Args:
        tables, lengths: see :func:`~engine.kernels.paged_attention.paged_attention`; read anew at
            every call.
    """

    def __init__(self, cache: PagedCache, tables: Tensor, lengths: Tensor, window: int) -> None:
        self._storage = cache.storage
        self._block_tokens = cache.block_tokens
        self._tables = tables
        self._lengths = lengths
        self._window = window

    @classmethod
    def of(cls, cache: PagedCache, parts: Sequence[Part], window: int) -> KernelSingles:
        """Of these parts."""
        device = cache.storage.device_blocks.device
        widest = max(len(part.table.blocks) for part in parts)
        rows = [part.table.blocks + [0] * (widest - len(part.table.blocks)) for part in parts]
        tables = torch.tensor(rows, device=device, dtype=torch.int32)
        lengths = torch.tensor([part.end for part in parts], device=device, dtype=torch.int32)
        return cls(cache, tables, lengths, window)

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """q [n, Hq, Dh] to [n, Hq, Dh]."""
        return paged_attention(
            q,
            self._storage.keys[layer][0],
            self._storage.values[layer][0],
            self._tables,
            self._lengths,
            block_tokens=self._block_tokens,
            window=self._window,
        )
