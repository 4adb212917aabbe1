"""Runs the model: prompts one by one, then one token for a whole batch at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.serving.attention import DecodeAttention, PrefillAttention

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.models.transformer import Transformer
    from engine.serving.cache import KeyValueCache


class ModelRunner:
    """The model and its cache on one device."""

    def __init__(self, model: Transformer, cache: KeyValueCache) -> None:
        self.cache = cache
        self._model = model
        self._device = cache.keys[0].device

    def warm_up(self) -> None:
        """Run both phases once, so the first request does not pay for set-up."""
        self.prefill(-1, [0])
        self.decode({-1: 0})
        self.cache.release(-1)

    @torch.inference_mode()
    def prefill(self, number: int, prompt: Sequence[int]) -> Tensor:
        """Store a prompt of S tokens in a new row; scores [1, V] of the token after it."""
        self.cache.allocate(number)
        tokens = torch.tensor([prompt], device=self._device)
        hidden = self._model.hidden(tokens, PrefillAttention(self.cache, number))
        self.cache.extend(number, len(prompt))
        return self._model.logits(hidden[:, -1])

    @torch.inference_mode()
    def decode(self, latest: Mapping[int, int]) -> Tensor:
        """Append each request's latest token; scores [B, V] of the next, in ``latest``'s order.

        Fastest when ``latest`` holds all running requests in the cache's row order.
        """
        attention = DecodeAttention(self.cache, list(latest))
        tokens = torch.tensor(list(latest.values()), device=self._device)[:, None]
        hidden = self._model.hidden(tokens, attention, attention.positions[:, None])
        for number in latest:
            self.cache.extend(number, 1)
        return self._model.logits(hidden[:, -1])
