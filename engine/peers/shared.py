"""Peer memory of CPU ranks of one host: pages that all of them have mapped.

The pages belong to an anonymous file (``memfd_create``): it has no name that anybody could guess or
that a killed process could leave behind, the size of ``/dev/shm`` does not bound it, and the kernel
frees it with the last process that has it mapped.
"""

from __future__ import annotations

import mmap
import os
import select
import threading
import time
import weakref
from typing import TYPE_CHECKING

import numpy as np
import torch

from collectors.errors import RunFailed, StorageError
from engine.peers.memory import ALIGNMENT, CHANNELS, PeerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

_HEADER = 4096  # signals, on a page of their own
_SIGNAL_STRIDE = 8  # words: each signal has a cache line of its own
_SPINS = 400  # some 40 us: as long as a peer that is near takes
_YIELDS = 200
_PAUSE_S = (50e-6, 1e-3)
_LOOK_S = 0.05
_FENCE = threading.Lock()


class Segment:
    """The buffer and the signals of one rank, as mapped by this process."""

    def __init__(self, descriptor: int, nbytes: int) -> None:
        self.descriptor = descriptor
        self._pages = mmap.mmap(descriptor, _HEADER + nbytes)
        words = np.frombuffer(self._pages, dtype=np.int64, count=CHANNELS * _SIGNAL_STRIDE)
        self.signals = words[::_SIGNAL_STRIDE]
        self._views: dict[tuple[int, tuple[int, ...], torch.dtype], Tensor] = {}

    @classmethod
    def make(cls, nbytes: int) -> Segment:
        """A new one.

        Raises:
            StorageError: there is not enough memory.
        """
        descriptor = os.memfd_create("opsuite-peers", os.MFD_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o600)
            os.posix_fallocate(descriptor, 0, _HEADER + nbytes)
            return cls(descriptor, nbytes)
        except OSError as error:
            os.close(descriptor)
            raise StorageError.from_os_error(
                error, f"sharing {nbytes} bytes of memory with other ranks"
            ) from error

    @classmethod
    def of_peer(cls, pid: int, descriptor: int, nbytes: int) -> Segment:
        """That which the process ``pid`` has open as ``descriptor``.

        Raises:
            OSError: it has none, or we may not see it.
        """
        ours = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(ours).st_size != _HEADER + nbytes:
                raise OSError(f"process {pid} shares memory of another size")
            return cls(ours, nbytes)
        except BaseException:
            os.close(ours)
            raise

    def view(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Made once for each place and shape: an operator asks at every call."""
        key = (offset, shape, dtype)
        found = self._views.get(key)
        if found is None:
            count = int(np.prod(shape, dtype=np.int64))
            flat = torch.frombuffer(self._pages, dtype=dtype, count=count, offset=_HEADER + offset)
            found = self._views[key] = flat.view(shape)
        return found

    def release(self) -> None:
        """Close the descriptor; the pages stay as long as anything looks at them."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class SharedMemory:
    """:class:`~engine.peers.memory.PeerMemory` over segments that are mapped already.

    Args:
        segments: of each rank.
        pids: of each rank's process.
        ranks: what each is called in errors: its global rank.
        timeout_s: how long to wait for a rank that lives.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        *,
        rank: int,
        nbytes: int,
        pids: Sequence[int],
        ranks: Sequence[int],
        timeout_s: float,
    ) -> None:
        assert nbytes % ALIGNMENT == 0, nbytes
        self.rank = rank
        self.size = len(segments)
        self.nbytes = nbytes
        self._segments = list(segments)
        self._mine = segments[rank].signals
        self._signals = [segment.signals for segment in segments]
        self._ranks = tuple(ranks)
        self._timeout_s = timeout_s
        self._processes = [os.pidfd_open(pid) for pid in pids]
        self._close = weakref.finalize(self, _close_all, self._processes)

    def view(self, rank: int, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return self._segments[rank].view(offset, tuple(shape), dtype)

    def publish(self, epoch: int, channel: int = 0) -> None:
        publish(self._mine, channel, epoch)

    def wait(self, rank: int, epoch: int, *, channel: int = 0, where: str = "") -> None:
        signals = self._signals[rank]
        if signals[channel] >= epoch:
            return
        begun = time.monotonic()
        wait_for(signals, channel, epoch, lambda: self._look_at(rank, begun, where))

    def _look_at(self, rank: int, begun: float, where: str) -> None:
        """Whether there is any use in waiting for a rank."""
        if self._has_ended(rank):
            raise PeerLost(self._ranks[rank], why="has ended", where=where)
        if time.monotonic() - begun >= self._timeout_s:
            why = f"did not come within {self._timeout_s:g} s"
            raise PeerLost(self._ranks[rank], why=why, where=where)

    def _has_ended(self, rank: int) -> bool:
        ended, _, _ = select.select([self._processes[rank]], [], [], 0)
        return bool(ended)

    def close(self) -> None:
        self._segments.clear()
        self._close()


def wait_for(signals: np.ndarray, channel: int, epoch: int, look: Callable[[], None]) -> None:
    """Until another process has published an epoch: at first without a pause.

    Args:
        look: called every 50 ms; a RunFailed that it raises ends the waiting, unless the epoch has
            come meanwhile.
    """
    for _ in range(_SPINS):
        if signals[channel] >= epoch:
            return
    for _ in range(_YIELDS):
        os.sched_yield()  # on a crowded host the peer may need this very core
        if signals[channel] >= epoch:
            return
    pause, longest = _PAUSE_S
    looks = time.monotonic() + _LOOK_S
    while signals[channel] < epoch:
        time.sleep(pause)
        pause = min(1.2 * pause, longest)
        now = time.monotonic()
        if now < looks:
            continue
        looks = now + _LOOK_S
        try:
            look()
        except RunFailed:
            if signals[channel] >= epoch:
                return
            raise


def publish(signals: np.ndarray, channel: int, epoch: int) -> None:
    """Say that all of an epoch is written."""
    with _FENCE:  # its locked instruction lets stores past the caches go first
        signals[channel] = epoch  # x86-64 shows it after all that was stored before


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
