"""Another instance of this host: its pool, what it gives, and whether it lives."""

from __future__ import annotations

import os
import select
import weakref

import torch
from torch import Tensor

from engine.peers.shared import Segment
from engine.serving.instances.exchange import InstanceLost
from engine.serving.instances.pool import PoolShape, TokenPool
from engine.serving.instances.signals import Signal


class Peer:
    """One process of it, until it is replaced.

    Attributes:
        instance: which one.
        signals: see :class:`~engine.serving.instances.signals.Signal`.
        pool: as it lies in that process.

    Raises:
        OSError: the process has ended, or does not let us see its memory.
    """

    def __init__(
        self, instance: int, shape: PoolShape, *, pid: int, descriptor: int, nbytes: int
    ) -> None:
        self.instance = instance
        self._pid = pid
        self._process = os.pidfd_open(pid)
        self._closing = weakref.finalize(self, os.close, self._process)
        segment = Segment.of_peer(pid, descriptor, nbytes)
        segment.release()  # what is mapped stays
        self.signals = segment.signals
        self.pool = TokenPool(
            shape, nbytes // shape.token_bytes, memory=segment.view(0, (nbytes,), torch.uint8)
        )
        self._staged = (-1, 0)
        self._stage: Tensor | None = None

    @property
    def stage(self) -> Tensor:
        """What it gives to others (uint8); to be asked for after a signal that it is there.

        Raises:
            InstanceLost: its process has ended.
        """
        told = int(self.signals[Signal.STAGE]), int(self.signals[Signal.STAGE_BYTES])
        if self._stage is None or told != self._staged:
            try:
                segment = Segment.of_peer(self._pid, *told)
            except OSError:
                raise InstanceLost(self.instance, why="has ended") from None
            segment.release()
            self._stage = segment.view(0, (told[1],), torch.uint8)
            self._staged = told
        return self._stage

    def has_ended(self) -> bool:
        """Whether its process has."""
        ended, _, _ = select.select([self._process], [], [], 0)
        return bool(ended)

    def close(self) -> None:
        """It is not looked at any more."""
        self._closing()
