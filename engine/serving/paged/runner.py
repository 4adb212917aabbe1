"""Computes the scores that an iteration asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.serving.paged.attention import MixedAttention, Part
from engine.serving.paged.network import network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from engine.models.transformer import Transformer
    from engine.scheduling.iteration import Work
    from engine.serving.paged.cache import PagedCache
    from engine.serving.paged.decode_graph import DecodeGraphs
    from engine.serving.paged.pipe import Pipe


class PagedRunner:
    """The model and its cache on one device. Sequences are called by their jobs' numbers.

    Args:
        pipe: to the stages before and after; None: the whole model is here.
    """

    def __init__(self, model: Transformer, cache: PagedCache, pipe: Pipe | None = None) -> None:
        self.cache = cache
        self._pipe = pipe
        self._part = model.part
        self._network = network(model)
        self._window = model.config.window
        self._vocabulary = model.config.vocab_size
        self._device = cache.storage.device_blocks.device
        self._graphs = self._decode_graphs(model) if self._device.type == "cuda" else None

    def _decode_graphs(self, model: Transformer) -> DecodeGraphs | None:
        """Not of a group: its ranks wait for each other inside of kernels, or by collectives that
        would have to be captured too."""
        if self._pipe or (model.tp is not None and model.tp.size > 1):
            return None
        from engine.serving.paged.decode_graph import DecodeGraphs

        return DecodeGraphs(
            self._network, self.cache, window=self._window, longest=model.config.max_seq_len
        )

    @torch.inference_mode()
    def compute(self, work: Sequence[Work], texts: Mapping[int, Sequence[int]]) -> Tensor:
        """Scores [n, V] of each work that gives a token, in its order, by one forward pass; nothing
        of stages before the last.

        A job that is not in the cache begins there, and shares nothing.

        Args:
            texts: of each job that works, all its tokens so far, of prompt and output.
        """
        if not work:
            return self._nothing()
        ordered = sorted(work, key=lambda each: each.tokens > 1)
        parts = [self._own(each, texts[each.job.number]) for each in ordered]
        if self._graphs and all(each.tokens == 1 and each.gives for each in ordered):
            latest = [texts[each.job.number][each.first] for each in ordered]
            return self._graphs.scores(parts, latest)
        attention = MixedAttention(self.cache, parts, self._window)
        given = self._network.advance(self._input(ordered, texts), attention)
        if not self._part.last:
            assert self._pipe, "a part of a model is a stage of a pipeline"
            self._pipe.send(given)
            return self._nothing()
        giving = [each for each in ordered if each.gives]
        if giving == [each for each in work if each.gives]:
            return given
        places = {each.job.number: row for row, each in enumerate(giving)}
        rows = [places[each.job.number] for each in work if each.gives]
        return given[torch.tensor(rows, device=self._device)]

    def meet(self) -> None:
        """Wait until every stage has come as far as this one."""
        if self._pipe:
            self._pipe.meet()

    def _input(self, work: Sequence[Work], texts: Mapping[int, Sequence[int]]) -> Tensor:
        """Tokens, or what the stage before made of them."""
        if not self._part.first:
            assert self._pipe, "a part of a model is a stage of a pipeline"
            return self._pipe.receive(sum(each.tokens for each in work))
        tokens = [
            token
            for each in work
            for token in texts[each.job.number][each.first : each.first + each.tokens]
        ]
        return torch.tensor(tokens, device=self._device)

    def _nothing(self) -> Tensor:
        return torch.empty(0, self._vocabulary, device=self._device)

    def _own(self, work: Work, text: Sequence[int]) -> Part:
        number = work.job.number
        if number not in self.cache:
            expected = work.job.prompt_tokens + work.job.max_tokens
            self.cache.begin(number, expected=expected)
        assert len(text) >= work.first + work.tokens, "the tokens are known"
        table = self.cache.extend(number, work.first + work.tokens)
        return Part(table=table, first=work.first, tokens=work.tokens, gives=work.gives)
