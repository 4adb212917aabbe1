"""Decodes of whole batches over buffers that stay where they are, so that a GPU can replay them.

A decode of a small model is some hundred launches that take longer than what they compute. Captured
as a CUDA graph it is one. Batches are rounded up to a power of two; the rows that are too many are
of an empty sequence in a block that is nobody's.

Never captured where this was written: no GPU was there. That the buffers hold what they should is
tested with the same code run eagerly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from engine.serving.paged.kernel_singles import KernelSingles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from engine.serving.paged.attention import Part
    from engine.serving.paged.cache import PagedCache
    from engine.serving.paged.network import Network

    Body = Callable[[], Tensor]

_WARM_UPS = 3  # before a capture: libraries choose and allocate what they need


def capture(body: Body) -> Body:
    """A CUDA graph of what a body does; whoever replays it finds the result where it was."""
    make_stream: Any = torch.cuda.Stream  # untyped in some releases of torch
    stream = make_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            body()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = body()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


class DecodeGraphs:
    """One for each size of batch, captured when it is first wanted.

    Args:
        longest: most tokens of a sequence.
        capture: makes something of a body that can be run again.
    """

    def __init__(
        self,
        network: Network,
        cache: PagedCache,
        *,
        window: int,
        longest: int,
        capture: Callable[[Body], Body] = capture,
    ) -> None:
        self._network = network
        self._cache = cache
        self._window = window
        self._blocks = -(-longest // cache.block_tokens)
        self._capture = capture
        self._graphs: dict[int, tuple[FixedAttention, Tensor, Body]] = {}

    def scores(self, parts: Sequence[Part], tokens: Sequence[int]) -> Tensor:
        """Scores [n, V] of one token of each; they hold until the next call."""
        size = 1 << (len(parts) - 1).bit_length()
        attention, inputs, run = self._graphs.get(size) or self._make(size)
        attention.fill(parts)
        inputs[: len(tokens)] = torch.tensor(tokens)
        return run()[: len(parts)]

    def _make(self, size: int) -> tuple[FixedAttention, Tensor, Body]:
        attention = FixedAttention(self._cache, size, self._blocks, self._window)
        device = self._cache.storage.device_blocks.device
        inputs = torch.zeros(size, dtype=torch.long, device=device)
        run = self._capture(lambda: self._network.advance(inputs, attention))
        self._graphs[size] = attention, inputs, run
        return self._graphs[size]


class FixedAttention:
    """Attention of a batch of single tokens, by the kernel, over buffers of fixed places.

    Attributes:
        positions, giving: see :class:`~engine.serving.paged.attention.MixedAttention`.
    """

    def __init__(self, cache: PagedCache, size: int, blocks: int, window: int) -> None:
        device = cache.storage.device_blocks.device
        self._storage = cache.storage
        self._block_tokens = cache.block_tokens
        self._tables = torch.zeros(size, blocks, dtype=torch.int32, device=device)
        self._lengths = torch.ones(size, dtype=torch.int32, device=device)
        self._singles = KernelSingles(cache, self._tables, self._lengths, window)
        self._slots = torch.zeros(size, dtype=torch.long, device=device)
        self.positions = torch.zeros(size, dtype=torch.long, device=device)
        self.giving: Tensor | None = None
        self.fill(())

    def fill(self, parts: Sequence[Part]) -> None:
        """These sequences, each of which has one token more; the rows behind them are empty."""
        size, width = self._tables.shape
        spare = self._storage.spare_block
        tables = torch.full((size, width), spare, dtype=torch.int32)
        ends = torch.ones(size, dtype=torch.long)
        for row, part in enumerate(parts):
            tables[row, : len(part.table.blocks)] = torch.tensor(part.table.blocks)
            ends[row] = part.end
        at = ends - 1
        last = tables[torch.arange(size), at // self._block_tokens].long()
        self._tables.copy_(tables)
        self._lengths.copy_(ends)
        self._slots.copy_(last * self._block_tokens + at % self._block_tokens)
        self.positions.copy_(at)

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keys and values [B, Hkv, Dh] of the batch."""
        self._storage.keys[layer][0].index_copy_(1, self._slots, k.transpose(0, 1))
        self._storage.values[layer][0].index_copy_(1, self._slots, v.transpose(0, 1))

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """q [B, Hq, Dh] to [B, Hq Dh]."""
        return self._singles.attend(layer, q).flatten(1)

    attend_last = attend
