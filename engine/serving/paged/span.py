"""A stretch of a sequence's tokens in the storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from engine.serving.paged.cache import Table


class Span(Protocol):
    """Keys or values of some neighbouring tokens."""

    def of(self, storage: Tensor) -> Tensor:
        """[1, Hkv, tokens, Dh] of a layer's keys or values [1, Hkv, N T, Dh]."""
        ...


def span(table: Table, start: int, stop: int, block_tokens: int, device: torch.device) -> Span:
    """Tokens ``start`` to ``stop`` - 1 of a sequence, and no others: what lies beside them, NaN
    least of all, is never read."""
    if table.together:
        return _Together(table.blocks[0] * block_tokens + start, stop - start)
    first = start // block_tokens
    blocks = torch.tensor(table.blocks[first : -(-stop // block_tokens)], device=device)
    return _Scattered(blocks, block_tokens, start - first * block_tokens, stop - start)


class _Together:
    """A view: nothing is copied."""

    def __init__(self, at: int, tokens: int) -> None:
        self._at, self._tokens = at, tokens

    def of(self, storage: Tensor) -> Tensor:
        return storage.narrow(2, self._at, self._tokens)


class _Scattered:
    """Blocks that are copied together."""

    def __init__(self, blocks: Tensor, block_tokens: int, at: int, tokens: int) -> None:
        self._blocks, self._block_tokens = blocks, block_tokens
        self._at, self._tokens = at, tokens

    def of(self, storage: Tensor) -> Tensor:
        _, heads, _, width = storage.shape
        blocks = storage.view(1, heads, -1, self._block_tokens * width)
        taken = blocks.index_select(2, self._blocks).view(1, heads, -1, width)
        return taken.narrow(2, self._at, self._tokens)
