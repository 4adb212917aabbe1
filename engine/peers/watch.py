"""Whether the peers of a device still live and still come: kernels that wait cannot see it.

A kernel that awaits a signal spins until it comes. When a peer has ended, or has not come in time,
this rank's signals are poisoned, which ends all waiting; what was being computed is worthless then,
and the next operation raises.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from engine.peers.memory import PeerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from engine.peers.device import DevicePeerMemory

    Latest = Callable[[Sequence[int]], Sequence[int]]

_LOOK_S = 0.05
_GRACE_S = (
    2.0  # a peer that ended after it had signalled may have left the rest of an operation out
)


@dataclass(eq=False)
class _Issued:
    """An operation. ``passed`` tells whether the device has ended it, once all of it is issued."""

    memory: DevicePeerMemory
    epoch: int
    where: str
    passed: Callable[[], bool] | None = None


@dataclass
class _Head:
    """The first operation that the device has not ended, and since when it is the first."""

    issued: _Issued | None = None
    since_s: float = field(default_factory=time.monotonic)


class PeerWatch:
    """Watches the peers of one rank, in a thread of its own.

    Args:
        ranks: what each rank of the group is called in errors: its global rank.
        processes: of the other ranks of this host, by their place in the group.
        timeout_s: how long an operation may be the first in the device's queue.
        latest: the latest epoch of each rank of the group, from what this rank's signals are.
        grace_s: the same where all have come, and one of them has ended.
    """

    def __init__(
        self,
        *,
        ranks: Sequence[int],
        processes: Mapping[int, int],
        timeout_s: float,
        latest: Latest,
        grace_s: float = _GRACE_S,
    ) -> None:
        self._ranks = tuple(ranks)
        self._places = {os.pidfd_open(pid): place for place, pid in processes.items()}
        self._poll = select.poll()
        for descriptor in self._places:
            self._poll.register(descriptor, select.POLLIN)
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._latest = latest
        self._issued: deque[_Issued] = deque()
        self._head = _Head()
        self._lost: PeerLost | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peer watch", daemon=True)
        self._thread.start()

    @contextmanager
    def following(self, memory: DevicePeerMemory, *, epoch: int, where: str) -> Iterator[None]:
        """Watch over an operation that the body issues to the current stream.

        Raises:
            PeerLost: a peer is gone already.
        """
        issued = _Issued(memory, epoch, where)
        self._issued.append(issued)  # first: a loss that the check misses poisons this memory, too
        self.check()
        yield
        issued.passed = _mark(memory.device)

    def check(self) -> None:
        """Before anything is made of results.

        Raises:
            PeerLost: a peer is gone; results since are worthless.
        """
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        """Watch no more."""
        self._closing.set()
        self._thread.join()
        for descriptor in self._places:
            os.close(descriptor)
        self._places.clear()

    def _watch(self) -> None:
        while self._lost is None and not self._closing.wait(_LOOK_S):
            lost = self._look(time.monotonic())
            if lost is not None:
                self._lost = lost  # before any waiting ends: who then looks at results is told
                for memory in {
                    id(each.memory): each.memory for each in tuple(self._issued)
                }.values():
                    memory.poison()

    def _look(self, now_s: float) -> PeerLost | None:
        while self._issued and (passed := self._issued[0].passed) is not None and passed():
            self._issued.popleft()
        first = self._issued[0] if self._issued else None
        if first is not self._head.issued:
            self._head = _Head(first, now_s)
        if first is None:  # who ends after the last operation is missed by nobody
            return None
        waited_s = now_s - self._head.since_s
        return self._ended(first, waited_s) or self._overdue(first, waited_s)

    def _ended(self, first: _Issued, waited_s: float) -> PeerLost | None:
        gone = [self._places[descriptor] for descriptor, _ in self._poll.poll(0)]
        if not gone:
            return None
        late = self._late(first)
        missing = [place for place in gone if place in late]
        if not missing and (late or waited_s < self._grace_s):
            return None  # it came; what is waited for may be on its way, or another's
        return PeerLost(self._ranks[(missing or gone)[0]], why="has ended", where=first.where)

    def _overdue(self, first: _Issued, waited_s: float) -> PeerLost | None:
        if waited_s < self._timeout_s:
            return None
        late = self._late(first)
        why = f"did not come within {self._timeout_s:g} s"
        if not late:  # the device itself hangs
            late, why = [first.memory.rank], f"hangs: all others came, but it {why}"
        return PeerLost(self._ranks[late[0]], why=why, where=first.where)

    def _late(self, first: _Issued) -> list[int]:
        """The places of those that have not come to it."""
        epochs = enumerate(self._latest(first.memory.seen()))
        own = first.memory.rank
        return [place for place, epoch in epochs if place != own and epoch < first.epoch]


def _mark(device: torch.device) -> Callable[[], bool]:
    """Whether the device has come to here on the current stream."""
    if device.type != "cuda":
        return lambda: True
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event.query
