"""An elastic instance: a replica of the weights, a pool, and a way to the others."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from engine.serving.instances.attention import StepAttention
from engine.serving.instances.exchange import InstanceLost
from engine.serving.instances.layout import Layout
from engine.serving.instances.step import Done
from engine.serving.paged.network import PackedNetwork, network
from engine.serving.sampling.sampler import NO_TOKEN, choose

if TYPE_CHECKING:
    from engine.models.transformer import Transformer
    from engine.serving.instances.exchange import Exchange
    from engine.serving.instances.pool import TokenPool
    from engine.serving.instances.step import Step
    from engine.serving.sampling.sampler import Chosen


class Instance:
    """Or one rank of its tensor-parallel group, all of which execute the same steps."""

    def __init__(self, model: Transformer, pool: TokenPool, exchange: Exchange) -> None:
        self.pool = pool
        self.exchange = exchange
        self._network = network(model)
        self._tp = model.tp if model.tp is not None and model.tp.size > 1 else None
        self._window = model.config.window

    @torch.inference_mode()
    def execute(self, step: Step) -> Done:
        """Its part of a step.

        Whatever hinders it, the others of the group are freed from the step before it is raised.
        """
        begun = time.perf_counter()
        chosen: list[tuple[int, Chosen]] = []
        lost: int | None = None
        try:
            chosen = self._compute(Layout(step, self.exchange.instance, self._window))
            self.exchange.end()
        except InstanceLost as error:
            lost = error.instance
            self.exchange.abort(step.number, lost)
        except BaseException:
            self.exchange.abort(step.number, self.exchange.instance)
            raise
        lost = self._agreed(lost)
        if lost is not None:
            chosen = []
        sent, ranks = self.exchange.sent, self._tp.size if self._tp else 1  # all give as much
        return Done(
            number=step.number,
            instance=self.exchange.instance,
            seconds=time.perf_counter() - begun,
            chosen=tuple(each for each in chosen if each[1].token != NO_TOKEN),
            failed=tuple(number for number, token in chosen if token.token == NO_TOKEN),
            lost=lost,
            sent=(sent.ring * ranks, sent.answers * ranks, sent.copies * ranks),
        )

    def _compute(self, layout: Layout) -> list[tuple[int, Chosen]]:
        attention = StepAttention(layout, self.pool, self.exchange, lock_step=self._tp is not None)
        if layout.rows:
            tokens = torch.tensor(layout.tokens, device=self.pool.device)
            scores = self._network.advance(tokens, attention)
        else:
            self._assist(attention)
        if attention.lost is not None:
            raise attention.lost
        numbers, candidates = [], []
        for _, part in layout.giving:
            assert part.choice is not None, "it gives a token"
            numbers.append(part.number)
            candidates.append(part.choice.candidate)
        if not numbers:
            return []
        return list(zip(numbers, choose(scores, candidates), strict=True))

    def _assist(self, attention: StepAttention) -> None:
        """No token is computed here: what others need of this pool, and what it is to keep."""
        shape = self.pool.shape
        new = torch.empty(0, shape.heads, shape.width, dtype=shape.dtype, device=self.pool.device)
        q = new.new_empty(0, shape.queries, shape.width)
        for layer in range(shape.layers):
            attention.store(layer, new, new)
            if layer == shape.layers - 1 and isinstance(self._network, PackedNetwork):
                attention.attend_last(layer, q)
            else:
                attention.attend(layer, q)

    def _agreed(self, lost: int | None) -> int | None:
        """By all ranks of the instance: a loss that one has met is a loss."""
        if self._tp is None:
            return lost
        told = torch.tensor([-1 if lost is None else lost], device=self.pool.device)
        most = int(self._tp.all_reduce(told, "max"))
        return None if most < 0 else most
