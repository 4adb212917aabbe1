"""Attention over the key-value cache: one request's prompt, or one new token of many requests.

Both are :class:`~engine.models.transformer.AttentionCache`s that live for one forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor

from engine.models.attention import causal_attention

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.serving.cache import KeyValueCache


class PrefillAttention:
    """A prompt from its first token on: causal attention, keys and values stored in one row."""

    def __init__(self, cache: KeyValueCache, number: int) -> None:
        self._cache = cache
        self._row = cache.row(number)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Shapes: q [1, Hq, S, Dh], k and v [1, Hkv, S, Dh]; returns [1, Hq, S, Dh]."""
        length = k.shape[2]
        self._cache.keys[layer][self._row, :, :length] = k[0]
        self._cache.values[layer][self._row, :, :length] = v[0]
        return causal_attention(q, k, v, window=self._cache.window)


class DecodeAttention:
    """One new token for each of several requests, whose earlier lengths may all differ.

    Args:
        numbers: the requests, in the batch's order.
    """

    def __init__(self, cache: KeyValueCache, numbers: Sequence[int]) -> None:
        device, dtype = cache.keys[0].device, cache.keys[0].dtype
        rows = [cache.row(number) for number in numbers]
        lengths = [cache.length(number) for number in numbers]
        self._cache = cache
        self._span = max(lengths) + 1
        self._rows = torch.tensor(rows, device=device)
        self.positions = torch.tensor(lengths, device=device)
        """Where each new token stands, [B]."""
        self._view = slice(0, len(rows)) if rows == list(range(len(rows))) else self._rows
        back = self.positions[:, None] - torch.arange(self._span, device=device)
        unseen = (back < 0) | (back >= (cache.window or self._span))
        mask = torch.zeros(unseen.shape, device=device, dtype=dtype)
        self._mask = mask.masked_fill_(unseen, float("-inf"))[:, None, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Shapes: q [B, Hq, 1, Dh], k and v [B, Hkv, 1, Dh]; returns [B, Hq, 1, Dh]."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[self._rows, :, self.positions] = k[:, :, 0]
        values[self._rows, :, self.positions] = v[:, :, 0]
        # The query heads that share a key head stand in for S: no key is repeated.
        grouped = q.view(q.shape[0], k.shape[1], -1, q.shape[3])
        out = F.scaled_dot_product_attention(
            grouped,
            keys[self._view, :, : self._span],
            values[self._view, :, : self._span],
            attn_mask=self._mask,
        )
        return out.reshape(q.shape)
