"""Striped attention round the ring (arXiv 2311.09431), and scaling down while the stripes pass
(LoongServe, arXiv 2404.09526, section 4.1).

Every stripe passes every instance, so whoever is to keep some of its tokens takes them as it
passes: no plan costs a byte more than another. The j-th token of a part lies in the stripe j % d.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from engine.serving.instances.partial import Partial, partial_attention
from engine.serving.instances.sight import Sight
from engine.serving.instances.stored import clipped

if TYPE_CHECKING:
    from torch import Tensor

    from engine.serving.instances.exchange import Exchange, Stripe
    from engine.serving.instances.layout import Kept, Layout, Striped
    from engine.serving.instances.pool import TokenPool


class StripedParts:
    """Attention of one instance's stripe, and what it keeps.

    Attributes:
        rows: tokens of its stripe.
    """

    def __init__(self, layout: Layout, pool: TokenPool, exchange: Exchange) -> None:
        self._layout = layout
        self._pool = pool
        self._exchange = exchange
        self.rows = layout.stripes[layout.place]
        self._own: Stripe | None = None
        self._asking: dict[bool, list[_Queries]] = {}
        self._kept = [
            [
                (each.offset[at], kept)
                for each in layout.striped
                for kept in each.kept(layout.instance, at)
            ]
            for at in range(layout.size)
        ]

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keys and values [n, Hkv, Dh] of its rows, which begin to pass."""
        if self._layout.striped:
            self._own = self._exchange.give_stripe(layer, k, v)

    def attend(self, layer: int, q: Tensor, *, last: bool) -> list[Tensor]:
        """While one stripe is attended to, the next one is on its way.

        Args:
            q: [n, Hkv, G, Dh].
            last: in the last layer: of the rows that give a token.

        Returns:
            [rows, Hkv, G, Dh] of each part that has some.
        """
        layout, stripe = self._layout, self._own
        if stripe is None:
            return []
        asking = self._queries(last)
        found: list[Partial | None] = [None] * len(asking)
        rows = torch.split(q, [each.tokens for each in asking])
        for back in range(layout.size):
            at = (layout.place - back) % layout.size
            if back:
                stripe = self._exchange.stripe(layer, layout.group[at])
            for number, each in enumerate(asking):
                found[number] = each.attend(rows[number], at, stripe, found[number])
            for offset, kept in self._kept[at]:
                self._keep(layer, stripe, offset, kept)
        return [each.out for each in found if each is not None]

    def _keep(self, layer: int, stripe: Stripe, offset: int, kept: Kept) -> None:
        """What passes, and is to stay here."""
        taken = slice(offset + kept.number, offset + kept.number + kept.tokens)
        size = self._layout.size
        slots = slice(kept.slot, kept.slot + (kept.tokens - 1) * size + 1, size)
        self._pool.keys[layer][:, :, slots] = stripe.keys[:, :, taken]
        self._pool.values[layer][:, :, slots] = stripe.values[:, :, taken]

    def _queries(self, last: bool) -> list[_Queries]:
        if last not in self._asking:
            self._asking[last] = [
                _Queries(each, self._layout, self._exchange, self._pool.device, last=last)
                for each in self._layout.striped
            ]
        return self._asking[last]


class _Reach(NamedTuple):
    """What some queries see of one stripe of their part.

    Attributes:
        skipped: queries before these, which see nothing.
        first, stop: the keys.
        causal: whether each query sees one key more than the one before.
        seen: which of the keys each sees; None: all, or as ``causal`` says.
    """

    skipped: int
    first: int
    stop: int
    causal: bool
    seen: Tensor | None = None


class _Queries:
    """One part's queries in this instance's stripe.

    Attributes:
        tokens: how many.
    """

    def __init__(
        self, part: Striped, layout: Layout, exchange: Exchange, device: torch.device, *, last: bool
    ) -> None:
        self._part = part
        count = part.counts[layout.place]
        self.tokens = count
        first = 0
        if last:
            self.tokens, first = int(part.gives == layout.place), count - 1
        if not self.tokens:
            return
        begin = part.part.first + layout.place
        self._places = range(begin, begin + count * layout.size, layout.size)[first:]
        self._first = first
        self._device = device
        self._reaches = [self._reach(at, layout) for at in range(layout.size)]
        seen_from = self._places[0] - layout.window + 1 if layout.window else 0
        self._cached = [
            Sight(
                clipped(exchange.cached(part, holder), seen_from),
                self._places,
                layout.window,
                device,
            )
            for holder in layout.group
        ]

    def attend(self, q: Tensor, at: int, stripe: Stripe, so_far: Partial | None) -> Partial | None:
        """To one stripe, and to what is cached where it comes from.

        Args:
            q: [T, Hkv, G, Dh].
            at: the stripe's place in the group.
            so_far: None: it is this instance's own stripe, of which each query sees itself.
        """
        if not self.tokens:
            return None
        skipped, first, stop, causal, seen = self._reaches[at]
        if first < stop:
            offset = self._part.offset[at]
            keys, values = (
                each[:, :, offset + first : offset + stop] for each in (stripe.keys, stripe.values)
            )
            more = partial_attention(q[skipped:], keys, values, causal=causal, seen=seen)
            if so_far is None:
                so_far = more
            else:
                so_far.merge(more, skipped)
        return self._cached[at].attend(q, stripe.cached_keys, stripe.cached_values, so_far)

    def _reach(self, at: int, layout: Layout) -> _Reach:
        later = int(at > layout.place)  # its tokens stand behind those of the same number here
        if layout.window:
            return self._within(at, layout)
        if self.tokens == 1:
            return _Reach(0, 0, self._first + 1 - later, causal=False)
        return _Reach(later, 0, self.tokens - later, causal=True)

    def _within(self, at: int, layout: Layout) -> _Reach:
        """A window: any mask will do."""
        part, size = self._part, layout.size
        begin = part.part.first + at
        first = max(0, -(-(self._places[0] - layout.window + 1 - begin) // size))
        stop = min(part.counts[at], (self._places[-1] - begin) // size + 1)
        own = torch.tensor(self._places, device=self._device)
        stored = torch.arange(begin + first * size, begin + stop * size, size, device=self._device)
        back = own[:, None] - stored
        return _Reach(0, first, stop, causal=False, seen=(back >= 0) & (back < layout.window))
