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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from engine.peers.memory import PeerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LOOK_S = 0.05


class Mark(Protocol):
    """A point of a stream, such as a ``torch.cuda.Event`` that was recorded."""

    def query(self) -> bool:
        """Whether the device has come to it."""
        ...


@dataclass(frozen=True, slots=True)
class _Issued:
    mark: Mark
    since: float
    epoch: int
    where: str


class PeerWatch:
    """Watches the peers of one rank, in a thread of its own.

    Args:
        processes: of the other ranks of this host, by the global rank.
        timeout_s: how long an operation may take on the device.
        late: the global rank that has not signalled an epoch, as far as can be seen.
        release: ends all waiting on this device; called once, from the thread.
    """

    def __init__(
        self,
        processes: Mapping[int, int],
        *,
        timeout_s: float,
        late: Callable[[int], int | None],
        release: Callable[[], None],
    ) -> None:
        self._descriptors = {os.pidfd_open(pid): rank for rank, pid in processes.items()}
        self._timeout_s = timeout_s
        self._late = late
        self._release = release
        self._issued: deque[_Issued] = deque()
        self._lost: PeerLost | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peer watch", daemon=True)
        self._thread.start()

    def follow(self, mark: Mark, *, epoch: int, where: str) -> None:
        """Watch over an operation that was issued: ``mark`` comes after it on its stream."""
        self._issued.append(_Issued(mark, time.monotonic(), epoch, where))

    def check(self) -> None:
        """Before each operation, and before anything is made of results.

        Raises:
            PeerLost: a peer is gone; results since are worthless.
        """
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        """Watch no more."""
        self._closing.set()
        self._thread.join()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    def _watch(self) -> None:
        while not self._closing.wait(_LOOK_S):
            lost = self._ended() or self._overdue()
            if lost is not None:
                self._lost = lost
                self._release()
                return

    def _ended(self) -> PeerLost | None:
        ended, _, _ = select.select(list(self._descriptors), [], [], 0)
        pending = self._pending()
        if not ended or pending is None:  # who ends after the last operation is missed by nobody
            return None
        return PeerLost(self._descriptors[ended[0]], why="has ended", where=pending.where)

    def _overdue(self) -> PeerLost | None:
        pending = self._pending()
        if pending is None or time.monotonic() - pending.since < self._timeout_s:
            return None
        late = self._late(pending.epoch)
        why = f"did not come within {self._timeout_s:g} s"
        return PeerLost(-1 if late is None else late, why=why, where=pending.where)

    def _pending(self) -> _Issued | None:
        """The first operation that the device has not ended."""
        while self._issued and self._issued[0].mark.query():
            self._issued.popleft()
        return self._issued[0] if self._issued else None
