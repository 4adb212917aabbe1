"""The exchange of CPU instances of one host: everybody reads in place what the others have."""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from engine.peers.shared import Segment, publish, wait_for
from engine.serving.instances.exchange import InstanceLost, Sent, Stripe
from engine.serving.instances.peer import Peer
from engine.serving.instances.pool import PoolShape, TokenPool
from engine.serving.instances.signals import Epochs, Signal
from engine.serving.instances.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from engine.serving.instances.layout import Layout, Striped
    from engine.serving.instances.partial import Partial
    from engine.serving.instances.step import Run

_LEAST = 1 << 20


class SharedExchange:
    """See :class:`~engine.serving.instances.exchange.Exchange`.

    Its pool lies in a segment of its own, where the others read what is cached; what it gives them
    of a step lies in another one, which grows with the steps.

    Args:
        slots: of the pool.
        timeout_s: how long to wait for an instance that lives: whoever manages the fleet ends those
            that hang.

    Attributes:
        pool: this instance's.
        pid, descriptor, nbytes: what the others must know to map it.

    Raises:
        StorageError: there is not enough memory.
    """

    def __init__(
        self,
        instance: int,
        shape: PoolShape,
        slots: int,
        *,
        timeout_s: float = math.inf,
    ) -> None:
        self.instance = instance
        self.sent = Sent()
        self._shape = shape
        self._timeout_s = timeout_s
        self.nbytes = slots * shape.token_bytes
        self._home = Segment.make(self.nbytes)
        self.pool = TokenPool(shape, slots, memory=self._home.view(0, (self.nbytes,), torch.uint8))
        self.pid, self.descriptor = os.getpid(), self._home.descriptor
        self._signals = self._home.signals
        self._peers: dict[int, Peer] = {}
        self._before: dict[Peer, int] = {}  # members of steps that they may not have left
        self._stage_segment: Segment | None = None
        self._grow(_LEAST)

    def set_peer(self, instance: int, pid: int, descriptor: int, nbytes: int) -> None:
        """Where another instance has its segment: of a new process, too. Not within a step."""
        old = self._peers.pop(instance, None)
        if old is not None:
            self._before.pop(old, None)
            old.close()
        try:
            peer = Peer(instance, self._shape, pid=pid, descriptor=descriptor, nbytes=nbytes)
        except OSError:
            return  # it has ended already: a step with it will find out
        self._peers[instance] = peer

    def begin(self, layout: Layout) -> None:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        self.sent = Sent()
        self._layout = layout
        self._step = layout.step.number
        self._epochs = Epochs(self._step, self._shape.layers)
        self._await_the_last_step()
        if layout.size == 1 and not layout.step.copies:
            return
        known = [self._peers[each] for each in layout.others if each in self._peers]
        self._before = dict.fromkeys(known, self._step)
        self._stages = {each: Stage(layout, each, self._shape) for each in layout.group}
        self._indices: dict[tuple[int, int, bool], Tensor | None] = {}
        if self._stages[self.instance].nbytes > len(self._stage):
            self._grow(self._stages[self.instance].nbytes)
        if layout.step.copies:
            self._copy()

    def cached(self, part: Striped, holder: int) -> tuple[Run, ...]:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        return part.at(holder)

    def give_stripe(self, layer: int, k: Tensor, v: Tensor) -> Stripe:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        stripe = self._stripe(self.instance, self.pool, self._stage, layer)
        stripe.keys[0] = k.transpose(0, 1)
        stripe.values[0] = v.transpose(0, 1)
        self._publish(Signal.STRIPE, self._epochs.of(layer))
        cached = sum(run.tokens for part in self._layout.striped for run in part.at(self.instance))
        given = (k.shape[0] + cached) * 2 * self._shape.row_bytes
        self.sent.ring += given * (self._layout.size - 1)
        return stripe

    def stripe(self, layer: int, source: int) -> Stripe:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        peer = self._wait(source, Signal.STRIPE, self._epochs.of(layer))
        return self._stripe(source, peer.pool, peer.stage, layer)

    def ask(self, layer: int, q: Tensor, *, last: bool) -> None:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        rows = self._layout.far_rows(self.instance, last=last)
        if not rows:
            return
        questions = self._stages[self.instance].questions(self._stage, layer, len(rows))
        index = self._index((self.instance, self.instance, last), rows, len(q))
        questions.copy_(q if index is None else q[index])
        self._publish(Signal.QUESTIONS, self._epochs.of(layer))
        for holder in self._layout.others:
            concerned = len(self._layout.rows_for(holder, self.instance, last=last))
            self.sent.answers += concerned * q[0].nbytes

    def asked(self, layer: int, master: int, *, last: bool) -> Tensor:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        peer = self._wait(master, Signal.QUESTIONS, self._epochs.of(layer))
        there = len(self._layout.far_rows(master, last=last))
        rows = self._layout.rows_for(self.instance, master, last=last)
        questions = self._stages[master].questions(peer.stage, layer, there)
        index = self._index((self.instance, master, last), rows, there)
        return questions if index is None else questions[index]

    def answer(self, layer: int, answers: Iterable[tuple[int, Partial]], *, last: bool) -> None:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        for count, (master, answer) in enumerate(answers, start=1):
            rows = len(answer.lse)
            given = self._stages[self.instance].answers(self._stage, layer, master, rows)
            given.out.copy_(answer.out)
            given.lse.copy_(answer.lse)
            self._publish(Signal.ANSWERS, self._epochs.of(layer, count))
            self.sent.answers += given.out.nbytes + given.lse.nbytes

    def answers(self, layer: int, holder: int, *, last: bool) -> Partial:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        before = self._layout.answered_before(holder, self.instance, last=last)
        peer = self._wait(holder, Signal.ANSWERS, self._epochs.of(layer, before + 1))
        rows = len(self._layout.rows_for(holder, self.instance, last=last))
        return self._stages[holder].answers(peer.stage, layer, self.instance, rows)

    def end(self) -> None:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        self._publish(Signal.LEFT, self._step)

    def abort(self, step: int, lost: int) -> None:
        """See :class:`~engine.serving.instances.exchange.Exchange`."""
        Epochs(step, self._shape.layers).abort(self._signals, lost)

    def close(self) -> None:
        """Give the memory back, when nobody looks at it any more."""
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()
        self._before.clear()
        self._home.release()
        if self._stage_segment is not None:
            self._stage_segment.release()

    # -- inside ---

    def _stripe(self, source: int, pool: TokenPool, memory: Tensor, layer: int) -> Stripe:
        keys, values = self._stages[source].stripe(memory, layer)
        return Stripe(
            keys=keys,
            values=values,
            cached_keys=pool.keys[layer],
            cached_values=pool.values[layer],
        )

    def _index(self, key: tuple[int, int, bool], rows: list[int], of: int) -> Tensor | None:
        """Of some rows among so many; None: all. Made once in a step."""
        if key not in self._indices:
            self._indices[key] = None if len(rows) == of else torch.tensor(rows)
        return self._indices[key]

    def _copy(self) -> None:
        copies = self._layout.step.copies
        self._publish(Signal.BEGUN, self._step)
        read = []
        for copy in copies:
            source, target = copy.source.instance, copy.target.instance
            assert {source, target} <= {*self._layout.group}, "pools of the group"
            if target == self.instance:
                pool = self.pool
                if source != target:
                    pool = self._wait(source, Signal.BEGUN, self._step).pool
                read.append((copy.target, pool.read(copy.source)))
            elif source == self.instance:
                self.sent.copies += copy.source.tokens * self._shape.token_bytes
        self._publish(Signal.COPIED, self._step)
        for reader in {copy.target.instance for copy in copies} - {self.instance}:
            self._wait(reader, Signal.COPIED, self._step)
        for run, content in read:
            self.pool.write(run, content)

    def _await_the_last_step(self) -> None:
        """Its other members may read still what is to be overwritten."""
        for peer, step in self._before.items():
            with suppress(InstanceLost):  # then it reads nothing
                self._wait_for(peer, Signal.LEFT, step)
        self._before = {}

    def _wait(self, instance: int, signal: Signal, epoch: int) -> Peer:
        """What an instance gave until then may be read."""
        peer = self._peers.get(instance)
        if peer is None:
            raise InstanceLost(instance, why="is not known here, or has ended")
        self._wait_for(peer, signal, epoch)
        if peer.signals[Signal.ABORTED] == self._step:
            raise InstanceLost(int(peer.signals[Signal.LOST]), why="was lost by others")
        return peer

    def _wait_for(self, peer: Peer, signal: Signal, epoch: int) -> None:
        signals = peer.signals
        if signals[signal] >= epoch:
            return
        deadline = time.monotonic() + self._timeout_s

        def look() -> None:
            if peer.has_ended():
                raise InstanceLost(peer.instance, why="has ended")
            if time.monotonic() >= deadline:
                why = f"did not come within {self._timeout_s:g} s"
                raise InstanceLost(peer.instance, why=why)

        wait_for(signals, signal, epoch, look)

    def _publish(self, signal: Signal, epoch: int) -> None:
        publish(self._signals, signal, epoch)

    def _grow(self, nbytes: int) -> None:
        """To be known from the next signal on."""
        segment = Segment.make(1 << (nbytes - 1).bit_length())
        self._stage = segment.view(0, (1 << (nbytes - 1).bit_length(),), torch.uint8)
        self._signals[Signal.STAGE] = segment.descriptor
        self._signals[Signal.STAGE_BYTES] = len(self._stage)
        if self._stage_segment is not None:
            self._stage_segment.release()
        self._stage_segment = segment
