"""Attention of a step, as the network of one instance of the group asks for it.

N tokens of this instance lie flat, those of parts whose master it is first, then its stripe. Hq
and Hkv query and key heads of this rank with G = Hq / Hkv, Dh a head's width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.serving.instances.exchange import InstanceLost
from engine.serving.instances.masters import MasteredParts
from engine.serving.instances.ring import StripedParts

if TYPE_CHECKING:
    from torch import Tensor

    from engine.serving.instances.exchange import Exchange
    from engine.serving.instances.layout import Layout
    from engine.serving.instances.pool import TokenPool


class StepAttention:
    """See :class:`~engine.serving.paged.attention.BatchAttention`.

    Args:
        lock_step: whether this is one of several ranks of an instance, which pass through their
            layers together: so a loss is no reason to leave them.

    Attributes:
        positions: where each token stands in its text, [N].
        giving: rows whose scores are wanted; None: all rows.
        lost: an instance that does not come to the end: what is computed is worthless.

    Raises:
        InstanceLost: by the constructor, too; not in lock step.
    """

    def __init__(
        self, layout: Layout, pool: TokenPool, exchange: Exchange, *, lock_step: bool = False
    ) -> None:
        self._heads = (pool.shape.heads, pool.shape.queries // pool.shape.heads)
        self._exchange = exchange
        self._lock_step = lock_step
        self._step = layout.step.number
        self.lost: InstanceLost | None = None
        try:
            exchange.begin(layout)
        except InstanceLost as error:
            self._lose(error)
        self._mastered = MasteredParts(layout, pool, exchange)
        self._striped = StripedParts(layout, pool, exchange)
        self.positions = torch.tensor(layout.places, device=pool.device, dtype=torch.long)
        rows = [row for row, _ in layout.giving]
        self._mastered_giving = sum(row < self._mastered.rows for row in rows)
        self.giving: Tensor | None = None
        if len(rows) < layout.rows:
            self.giving = torch.tensor(rows, device=pool.device, dtype=torch.long)

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keys and values [N, Hkv, Dh] of this batch."""
        if self.lost is not None:
            return
        own = self._mastered.rows
        self._mastered.store(layer, k[:own], v[:own])
        try:
            self._striped.store(layer, k[own:], v[own:])
        except InstanceLost as error:
            self._lose(error)

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """Of all tokens: q [N, Hq, Dh] to [N, Hq Dh]."""
        return self._attend(layer, q, self._mastered.rows, last=False)

    def attend_last(self, layer: int, q: Tensor) -> Tensor:
        """Of the tokens in ``giving``: q [n, Hq, Dh] to [n, Hq Dh]."""
        return self._attend(layer, q, self._mastered_giving, last=True)

    def _attend(self, layer: int, q: Tensor, own: int, *, last: bool) -> Tensor:
        """Answers to others go before the ring: they wait for them."""
        rows = q.view(q.shape[0], *self._heads, q.shape[-1])
        found: list[Tensor] = []
        if self.lost is None:
            try:
                self._mastered.begin(layer, rows[:own], last=last)
                striped = self._striped.attend(layer, rows[own:], last=last)
                found = [*self._mastered.end(layer, last=last), *striped]
            except InstanceLost as error:
                self._lose(error)
        if self.lost is not None or not found:
            return q.new_zeros(q.shape[0], q.shape[1] * q.shape[2])
        return torch.cat(found).to(q.dtype).flatten(1)

    def _lose(self, error: InstanceLost) -> None:
        if not self._lock_step:
            raise error
        self.lost = error
        self._exchange.abort(self._step, error.instance)
