"""Attention of one forward pass over a mixed batch: single tokens and chunks of prompts.

N tokens lie flat, one sequence's behind another's: those of which one is computed first, then the
chunks. Hq and Hkv query and key heads of this rank, Dh a head's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor

from engine.models.attention import causal_attention
from engine.serving.paged.span import span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.serving.paged.cache import PagedCache, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A sequence's part of a batch.

    Attributes:
        first: tokens that are cached before.
        tokens: how many are computed.
        gives: whether scores are wanted for the last of them.
    """

    table: Table
    first: int
    tokens: int
    gives: bool

    @property
    def end(self) -> int:
        """Tokens that are cached afterwards."""
        return self.first + self.tokens


class BatchAttention(Protocol):
    """What a network needs of a batch.

    Attributes:
        positions: where each token stands in its sequence, [N].
        giving: rows whose scores are wanted, in the order of parts; None: all rows.
    """

    positions: Tensor
    giving: Tensor | None

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keys and values [N, Hkv, Dh] of the batch."""
        ...

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """Of all tokens: q [N, Hq, Dh] to [N, Hq Dh]."""
        ...

    def attend_last(self, layer: int, q: Tensor) -> Tensor:
        """Of the tokens in ``giving``: q [n, Hq, Dh] to [n, Hq Dh]."""
        ...


class Singles(Protocol):
    """One token each of several sequences, whose keys and values are stored."""

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """q [n, Hq, Dh] to [n, Hq, Dh]."""
        ...


class MixedAttention:
    """Stores a batch's keys and values, and attends to all that is stored.

    Args:
        parts: those of one token first.
        window: tokens that attention looks back; 0: all.

    Attributes:
        positions: where each token stands in its sequence, [N].
        giving: rows whose scores are wanted, in the order of parts; None: all rows.
    """

    def __init__(self, cache: PagedCache, parts: Sequence[Part], window: int) -> None:
        device = cache.storage.device_blocks.device
        self._storage = cache.storage
        self._writing = [
            (keys[0].transpose(0, 1), values[0].transpose(0, 1))
            for keys, values in zip(cache.storage.keys, cache.storage.values, strict=True)
        ]
        self.positions = torch.tensor(
            [place for part in parts for place in range(part.first, part.end)], device=device
        )
        size = cache.block_tokens
        self._slots = torch.tensor(
            [slot for part in parts for slot in _slots(part, size)], device=device
        )
        single = [part for part in parts if part.tokens == 1]
        self._singles = singles(cache, single, window) if single else None
        self._chunks = [_Chunk(cache, part, window) for part in parts[len(single) :]]
        self._sizes = [len(single), *(part.tokens for part in parts[len(single) :])]
        self.giving = _giving(parts, device)
        self._last = self._singles
        if self.giving is not None:
            given = [part for part in parts if part.gives]
            self._last = singles(cache, given, window) if given else None

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keys and values [N, Hkv, Dh] of this batch."""
        keys, values = self._writing[layer]
        keys[self._slots] = k
        values[self._slots] = v

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """Of all tokens: q [N, Hq, Dh] to [N, Hq Dh]."""
        single, *chunks = torch.split(q, self._sizes)
        out = [self._singles.attend(layer, single)] if self._singles else []
        for chunk, own in zip(self._chunks, chunks, strict=True):
            out.append(chunk.attend(layer, own))
        return (out[0] if len(out) == 1 else torch.cat(out)).flatten(1)

    def attend_last(self, layer: int, q: Tensor) -> Tensor:
        """Of the tokens in ``giving``: q [n, Hq, Dh] to [n, Hq Dh]."""
        return self._last.attend(layer, q).flatten(1) if self._last else q.flatten(1)


def singles(cache: PagedCache, parts: Sequence[Part], window: int) -> Singles:
    """By the kernel where the storage is a GPU's, else by views."""
    if cache.storage.device_blocks.is_cuda:
        from engine.serving.paged.kernel_singles import KernelSingles

        return KernelSingles.of(cache, parts, window)
    return ViewSingles(cache, parts, window)


class ViewSingles:
    """Each sequence by itself over exactly its own tokens: no padding, no mask, and where its
    blocks lie together no copy. What it gives does not depend on who else is in the batch."""

    def __init__(self, cache: PagedCache, parts: Sequence[Part], window: int) -> None:
        self._storage = cache.storage
        device = cache.storage.device_blocks.device
        self._spans = [
            span(part.table, _seen_from(part.end, window), part.end, cache.block_tokens, device)
            for part in parts
        ]

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """q [n, Hq, Dh] to [n, Hq, Dh]."""
        keys, values = self._storage.keys[layer], self._storage.values[layer]
        # The query heads that share a key head stand in for tokens: no key is repeated.
        grouped = q.view(q.shape[0], keys.shape[1], -1, q.shape[2])
        out = [
            F.scaled_dot_product_attention(own, of.of(keys), of.of(values))
            for own, of in zip(torch.split(grouped, 1), self._spans, strict=True)
        ]
        return torch.cat(out).view(q.shape)


class _Chunk:
    """Several tokens of one prompt."""

    def __init__(self, cache: PagedCache, part: Part, window: int) -> None:
        device, dtype = cache.storage.device_blocks.device, cache.storage.device_blocks.dtype
        start = _seen_from(part.first + 1, window)
        self._storage = cache.storage
        self._window = window
        self._span = span(part.table, start, part.end, cache.block_tokens, device)
        self._mask: Tensor | None = None
        if part.first:
            own = torch.arange(part.first, part.end, device=device)[:, None]
            back = own - torch.arange(start, part.end, device=device)
            unseen = (back < 0) | (back >= (window or part.end))
            mask = torch.zeros(unseen.shape, device=device, dtype=dtype)
            self._mask = mask.masked_fill_(unseen, float("-inf"))

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """q [T, Hq, Dh] to [T, Hq, Dh]."""
        k = self._span.of(self._storage.keys[layer])
        v = self._span.of(self._storage.values[layer])
        turned = q.transpose(0, 1).unsqueeze(0)
        if self._mask is None:
            out = causal_attention(turned, k, v, window=self._window)
        else:
            grouped = k.shape[1] != turned.shape[1]
            out = F.scaled_dot_product_attention(
                turned, k, v, attn_mask=self._mask, enable_gqa=grouped
            )
        return out[0].transpose(0, 1)


def _seen_from(end: int, window: int) -> int:
    """The first token that the last of ``end`` tokens sees."""
    return max(0, end - window) if window else 0


def _slots(part: Part, size: int) -> Sequence[int]:
    """Where the part's tokens lie in the storage."""
    blocks = part.table.blocks
    if part.table.together:
        start = blocks[0] * size
        return range(start + part.first, start + part.end)
    return [blocks[at // size] * size + at % size for at in range(part.first, part.end)]


def _giving(parts: Sequence[Part], device: torch.device) -> Tensor | None:
    if all(part.gives and part.tokens == 1 for part in parts):
        return None
    rows, row = [], -1
    for part in parts:
        row += part.tokens
        if part.gives:
            rows.append(row)
    return torch.tensor(rows, device=device, dtype=torch.long)
