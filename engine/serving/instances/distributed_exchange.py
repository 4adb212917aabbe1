"""The exchange of instances of several hosts, or on GPUs: torch.distributed point to point.

All ranks of all instances are in one default group, made once: no group is ever made for a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist

from engine.serving.instances.exchange import InstanceLost, Sent, Stripe
from engine.serving.instances.partial import Partial
from engine.serving.instances.step import Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from engine.serving.instances.layout import Layout, Striped
    from engine.serving.instances.pool import TokenPool

_NOBODY = -1


@dataclass(frozen=True, slots=True)
class _Message:
    """To or from another instance."""

    instance: int
    content: Tensor
    given: bool


class _Posted(NamedTuple):
    """A message under way."""

    message: _Message
    work: dist.Work


class DistributedExchange:
    """See :class:`~engine.serving.instances.exchange.Exchange`.

    Whoever loses another in a step goes on giving the rest what they wait for, whatever it is
    worth, and says so at the end: else they would wait until their time is up. A process that has
    ended can be replaced with the whole default group only.

    Args:
        ranks: of each instance's like of this rank, in the default group, which exists.
        timeout_s: how long to wait for an instance that lives.
    """

    def __init__(
        self,
        instance: int,
        pool: TokenPool,
        ranks: Mapping[int, int],
        *,
        timeout_s: float = 60.0,
    ) -> None:
        self.instance = instance
        self.sent = Sent()
        self._pool = pool
        self._shape = pool.shape
        self._ranks = ranks
        self._timeout = timedelta(seconds=timeout_s)
        self._together = pool.device.type == "cuda"
        self._lost: int | None = None
        dist.barrier()  # NCCL makes its ways between all ranks with the first operation of all

    def begin(self, layout: Layout) -> None:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        self.sent = Sent()
        self._lost = None
        self._layout = layout
        self._layer = 0
        self._going: list[_Posted] = []
        self._gone: list[_Posted] = []
        self._packets: dict[int, Tensor] = {}
        self._lengths = {
            each: self._stripe_of(each) + sum(run.tokens for run in self._cached_at(each))
            for each in layout.group
        }
        if layout.step.copies:
            self._copy()

    def cached(self, part: Striped, holder: int) -> tuple[Run, ...]:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        slot = self._stripe_of(holder)
        for each in self._layout.striped:
            runs = each.at(holder)
            if each is part:
                sizes = accumulate((run.tokens for run in runs), initial=slot)
                return tuple(
                    Run(holder, at, run.first, run.tokens)
                    for run, at in zip(runs, sizes, strict=False)
                )
            slot += sum(run.tokens for run in runs)
        raise AssertionError("a part of this step")

    def give_stripe(self, layer: int, k: Tensor, v: Tensor) -> Stripe:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        self._come_to(layer)
        own = self._room(self.instance)
        for to, new, stored in (
            (own[0], k, self._pool.keys[layer][0]),
            (own[1], v, self._pool.values[layer][0]),
        ):
            to[:, : len(k)] = new.transpose(0, 1)
            at = len(k)
            for run in self._cached_at(self.instance):
                to[:, at : at + run.tokens] = stored.narrow(1, run.slot, run.tokens)
                at += run.tokens
        self._packets = {self.instance: own}
        self._pass_on(self.instance, own)
        return self._unpacked(self.instance, own)

    def stripe(self, layer: int, source: int) -> Stripe:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        self._receive(self._passing)
        packet = self._packets[source]
        if source != self._neighbour(1):  # that one gave it first
            self._pass_on(source, packet)
        return self._unpacked(source, packet)

    def ask(self, layer: int, q: Tensor, *, last: bool) -> None:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        self._come_to(layer)
        layout, messages = self._layout, []
        far = layout.far_rows(self.instance, last=last)
        self._asked: dict[int, Tensor] = {}
        for other in layout.others:
            rows = layout.rows_for(other, self.instance, last=last)
            if rows:
                concerned = torch.tensor([far[row] for row in rows], device=q.device)
                messages.append(_Message(other, q[concerned], given=True))
            theirs = len(layout.rows_for(self.instance, other, last=last))
            if theirs:
                self._asked[other] = q.new_empty(theirs, *q.shape[1:])
                messages.append(_Message(other, self._asked[other], given=False))
        self.sent.answers += _given(messages)
        self._questions = self._post(messages)

    def asked(self, layer: int, master: int, *, last: bool) -> Tensor:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        self._receive(self._questions)
        return self._asked[master]

    def answer(self, layer: int, answers: Iterable[tuple[int, Partial]], *, last: bool) -> None:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        messages = [
            _Message(master, torch.cat((each.out, each.lse.unsqueeze(-1)), dim=-1), given=True)
            for master, each in answers
        ]
        self._answers: dict[int, Tensor] = {}
        shape = self._shape
        sizes = (shape.heads, shape.queries // shape.heads, shape.width + 1)
        for holder in self._layout.others:
            rows = len(self._layout.rows_for(holder, self.instance, last=last))
            if rows:
                room = torch.empty(rows, *sizes, device=self._pool.device)
                self._answers[holder] = room
                messages.append(_Message(holder, room, given=False))
        self.sent.answers += _given(messages)
        self._answering = self._post(messages)

    def answers(self, layer: int, holder: int, *, last: bool) -> Partial:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        self._receive(self._answering)
        whole = self._answers[holder]
        return Partial(whole[..., :-1], whole[..., -1])

    def end(self) -> None:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        others = self._layout.others
        mine = torch.tensor([_NOBODY if self._lost is None else self._lost])
        mine = mine.to(self._pool.device)
        theirs = {each: torch.full_like(mine, _NOBODY) for each in others}
        messages = [_Message(each, mine, given=True) for each in others]
        messages += [_Message(each, told, given=False) for each, told in theirs.items()]
        self._finish(self._post(messages))
        self._finish(self._gone)
        self._finish(self._going)
        for told in theirs.values():
            if self._lost is None and int(told) != _NOBODY:
                self._lost = int(told)
        if self._lost is not None:
            raise InstanceLost(self._lost, why="did not come to the end of a step")

    def abort(self, step: int, lost: int) -> None:
        """See :class:`~engine.serving.instances.exchange.Exchange`.

        After :meth:`end` everybody knows. Before it, nobody can be told: they wait for as long as
        they have time, or until this process ends.
        """

    # -- inside ---

    def _stripe_of(self, instance: int) -> int:
        return self._layout.stripes[self._layout.group.index(instance)]

    def _cached_at(self, instance: int) -> list[Run]:
        return [run for part in self._layout.striped for run in part.at(instance)]

    def _room(self, instance: int) -> Tensor:
        """For a stripe and what is cached: keys and values [2, Hkv, tokens, Dh]."""
        sizes = (2, self._shape.heads, self._lengths[instance], self._shape.width)
        return torch.empty(sizes, dtype=self._shape.dtype, device=self._pool.device)

    def _unpacked(self, source: int, packet: Tensor) -> Stripe:
        stripe = packet[:, :, : self._stripe_of(source)]
        return Stripe(
            keys=stripe[0:1], values=stripe[1:2], cached_keys=packet[0:1], cached_values=packet[1:2]
        )

    def _neighbour(self, step: int) -> int:
        return self._layout.group[(self._layout.place + step) % self._layout.size]

    def _pass_on(self, source: int, packet: Tensor) -> None:
        """To the next instance, while the previous one's next packet comes here."""
        group = self._layout.group
        coming = group[(group.index(source) - 1) % len(group)]
        self._packets[coming] = self._room(coming)
        messages = [
            _Message(self._neighbour(1), packet, given=True),
            _Message(self._neighbour(-1), self._packets[coming], given=False),
        ]
        self.sent.ring += _given(messages)
        self._passing = self._post(messages)

    def _copy(self) -> None:
        """Between two pools the copies keep their order; within one they need no message."""
        messages, read = [], []
        for copy in self._layout.step.copies:
            source, target = copy.source.instance, copy.target.instance
            if source == self.instance:
                content = self._pool.read(copy.source)
                if target == self.instance:
                    read.append((copy.target, content))
                else:
                    messages.append(_Message(target, content, given=True))
            elif target == self.instance:
                room = self._pool.like(copy.target)
                read.append((copy.target, room))
                messages.append(_Message(source, room, given=False))
        self.sent.copies += _given(messages)
        self._finish(self._post(messages))
        for run, content in read:
            self._pool.write(run, content)

    def _post(self, messages: Sequence[_Message]) -> list[_Posted]:
        """Begin to give and to take; nobody gives nothing."""
        messages = [each for each in messages if each.content.numel()]
        if self._together and messages:
            operations = [
                dist.P2POp(
                    dist.isend if each.given else dist.irecv,
                    each.content,
                    self._ranks[each.instance],
                )
                for each in messages
            ]
            works = dist.batch_isend_irecv(operations)
            return [_Posted(messages[0], work) for work in works]
        posted = []
        for each in messages:
            begin = dist.isend if each.given else dist.irecv
            try:
                work = begin(each.content, self._ranks[each.instance])
            except RuntimeError:  # torch's for a way that is closed
                self._lose(each.instance)
                continue
            assert work is not None, "this process is of the default group"
            posted.append(_Posted(each, work))
        return posted

    def _receive(self, posted: list[_Posted]) -> None:
        """What comes is here then; what goes may be on its way still."""
        if not self._together:
            self._going += [each for each in posted if each.message.given]
            posted[:] = [each for each in posted if not each.message.given]
        self._finish(posted)

    def _come_to(self, layer: int) -> None:
        """What was on its way in the layer before the last is gone: it is kept no longer."""
        if layer != self._layer:
            self._finish(self._gone)
            self._layer, self._gone, self._going = layer, self._going, []

    def _finish(self, posted: list[_Posted]) -> None:
        for each in posted:
            try:
                each.work.wait(self._timeout)
            except RuntimeError:  # torch's for a way that is closed, and when time is up
                self._lose(each.message.instance)
        posted.clear()

    def _lose(self, instance: int) -> None:
        if self._lost is None:
            self._lost = instance


def _given(messages: Iterable[_Message]) -> int:
    return sum(each.content.nbytes for each in messages if each.given)
