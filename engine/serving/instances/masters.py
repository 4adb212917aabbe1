"""Multi-master decode: queries go to who holds the keys, and partial results come back
(LoongServe, arXiv 2404.09526, section 4.2).

New keys and values stay with a part's master, and old ones where they are: that another instance
becomes a master moves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom

from engine.serving.instances.partial import Partial, partial_attention, windowed_attention
from engine.serving.instances.pool import PoolWriter
from engine.serving.instances.sight import Sight
from engine.serving.instances.stored import together

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from engine.serving.instances.exchange import Exchange
    from engine.serving.instances.layout import Layout, Question
    from engine.serving.instances.pool import TokenPool
    from engine.serving.instances.step import Run


class MasteredParts:
    """Attention of the parts whose master an instance is, and its answers to other masters.

    Attributes:
        rows: tokens of these parts.
    """

    def __init__(self, layout: Layout, pool: TokenPool, exchange: Exchange) -> None:
        self._layout = layout
        self._pool = pool
        self._exchange = exchange
        self.rows = sum(len(part.tokens) for part in layout.mastered)
        self._writer = PoolWriter(pool, [run for part in layout.mastered for run in part.keep])
        self._rounds: dict[bool, _Round] = {}
        self._new: tuple[Tensor, Tensor] | None = None
        self._found: list[Partial | Tensor] = []

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keys and values [n, Hkv, Dh] of its rows."""
        self._new = k, v
        if self.rows:
            self._writer.write(layer, k, v)

    def begin(self, layer: int, q: Tensor, *, last: bool) -> None:
        """Give the others their questions, then compute what can be computed here, then answer
        theirs: while one does so, what is under way arrives.

        Args:
            q: [n, Hkv, G, Dh].
            last: in the last layer: of the rows that give a token.
        """
        assert self._new is not None, "keys and values are stored first"
        this = self._round(last)
        self._exchange.ask(layer, q, last=last)
        stored = self._pool.keys[layer], self._pool.values[layer]
        self._found = [
            own.attend(rows, self._new, stored)
            for own, rows in zip(this.own, torch.split(q, this.sizes), strict=True)
        ]
        if this.asked or this.holders:
            self._exchange.answer(layer, self._answers(layer, this, last), last=last)

    def end(self, layer: int, *, last: bool) -> list[Tensor]:
        """With what the others answer: [rows, Hkv, G, Dh] of each part."""
        this = self._round(last)
        for holder in this.holders:
            answers = self._exchange.answers(layer, holder, last=last)
            row = 0
            for question, found in zip(this.questions, self._found, strict=True):
                if holder in question.far:
                    assert isinstance(found, Partial), "others are to add to it"
                    end = row + question.tokens
                    found.merge(Partial(answers.out[row:end], answers.lse[row:end]))
                    row = end
        return [each.out if isinstance(each, Partial) else each for each in self._found]

    def _answers(self, layer: int, this: _Round, last: bool) -> Iterator[tuple[int, Partial]]:
        stored = self._pool.keys[layer], self._pool.values[layer]
        for master, sights in this.asked:
            q = self._exchange.asked(layer, master, last=last)
            rows = torch.split(q, [each.queries for each in sights])
            given = [
                each.attend(own, *stored, None) for each, own in zip(sights, rows, strict=True)
            ]
            if len(given) == 1:
                yield master, given[0]
            else:
                out, lse = (torch.cat(each) for each in zip(*given, strict=True))
                yield master, Partial(out, lse)

    def _round(self, last: bool) -> _Round:
        last = last and not self._layout.alike
        if last not in self._rounds:
            self._rounds[last] = _Round(self._layout, self._pool, last=last)
        return self._rounds[last]


class _Round:
    """What is asked and answered in a layer: the same in all but the last.

    Attributes:
        questions: of this master.
        own: what of them is computed here, and the rows of each.
        holders: who answers the rest, in the order in which that is added.
        asked: other masters, and for each of their questions what is seen here.
    """

    def __init__(self, layout: Layout, pool: TokenPool, *, last: bool) -> None:
        me, window = layout.instance, layout.window
        self.questions = layout.questions(me, last=last)
        self.sizes = [each.tokens for each in self.questions]
        self.own: list[_Own | _Alone] = []
        row = 0
        for each in self.questions:
            self.own.append(_own(each, me, row, window, pool.device))
            row += each.tokens
        self.holders = [
            each
            for each in layout.others
            if any(each in question.far for question in self.questions)
        ]
        self.asked: list[tuple[int, list[Sight]]] = []
        for master in layout.others:
            asked = layout.asked(me, master, last=last)
            if asked:
                sights = [_sight(each, me, window, pool.device) for each in asked]
                self.asked.append((master, sights))


class _Own:
    """What of a question is computed at its master.

    Args:
        row: of its first query, among the master's.
    """

    def __init__(
        self, question: Question, master: int, row: int, window: int, device: torch.device
    ) -> None:
        self._tokens = question.tokens
        self._row = row
        self._window = window
        self._sight = _sight(question, master, window, device)
        self._kept = question.new if len(question.new) == 1 else None

    def attend(
        self, q: Tensor, new: tuple[Tensor, Tensor], stored: tuple[Tensor, Tensor]
    ) -> Partial:
        """Args:
        q: its queries, [T, Hkv, G, Dh].
        new: keys and values of all of the master's rows, [n, Hkv, Dh].
        stored: the pool's.
        """
        if self._tokens == 1:
            return self._sight.attend(q, *stored, None)
        if self._kept is None:
            rows = (each.narrow(0, self._row, self._tokens) for each in new)
            keys, values = (each.transpose(0, 1).unsqueeze(0) for each in rows)
        else:
            keys, values = (each.narrow(2, self._kept[0].slot, self._tokens) for each in stored)
        if self._window:
            found = windowed_attention(q, keys, values, self._window)
        else:
            found = partial_attention(q, keys, values, causal=True)
        return self._sight.attend(q, *stored, found)


class _Alone:
    """A single query for which nobody else holds anything, of neighbouring slots: as in an engine
    that has but one instance."""

    def __init__(self, run: Run) -> None:
        self._slot, self._tokens = run.slot, run.tokens

    def attend(self, q: Tensor, _: tuple[Tensor, Tensor], stored: tuple[Tensor, Tensor]) -> Tensor:
        """As :meth:`_Own.attend`; what it gives is not to be added to."""
        keys, values = (each.narrow(2, self._slot, self._tokens) for each in stored)
        return F.scaled_dot_product_attention(q, keys, values)


def _own(
    question: Question, master: int, row: int, window: int, device: torch.device
) -> _Own | _Alone:
    if question.tokens == 1 and not question.far:
        run = together(question.before)
        if run is not None:
            return _Alone(run)
    return _Own(question, master, row, window, device)


def _sight(question: Question, instance: int, window: int, device: torch.device) -> Sight:
    places = range(question.place, question.place + question.tokens)
    return Sight(question.at(instance), places, window, device)
