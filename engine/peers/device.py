"""What peer memory of accelerators is: like that of hosts, but written and awaited on streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

SIGNALS = 2048
"""Signals of each rank, 32 bits each; any rank may write any of them."""
POISON = 2**31 - 1
"""A signal that ends every wait: of a group that has lost a rank."""


def write_value(signals: Tensor, index: int, value: int) -> None:
    """Write one of the signals in the order of the current stream, by no kernel."""
    if signals.device.type != "cuda":
        signals[index] = value
        return
    from torch._C._distributed_c10d import _SymmetricMemory

    _SymmetricMemory.stream_write_value32(signals, index, value)


class HostAccess:
    """A rank's own signals for any thread of its host, past whatever the streams wait for."""

    def __init__(self, signals: Tensor) -> None:
        self._signals = signals
        self._stream: torch.cuda.Stream | None = None
        if signals.device.type == "cuda":  # made now: a busy device may not let us later
            self._stream = torch.cuda.Stream(signals.device)  # type: ignore[no-untyped-call]
            self._poison = torch.full((SIGNALS,), POISON, dtype=torch.int32, pin_memory=True)
            self._seen = torch.empty(SIGNALS, dtype=torch.int32, pin_memory=True)

    def seen(self) -> list[int]:
        """What they are now."""
        if self._stream is None:
            return self._signals.tolist()
        with torch.cuda.stream(self._stream):
            self._seen.copy_(self._signals, non_blocking=True)
        self._stream.synchronize()
        return self._seen.tolist()

    def poison(self) -> None:
        """End every wait for them."""
        if self._stream is None:
            self._signals.fill_(POISON)
            return
        with torch.cuda.stream(self._stream):
            self._signals.copy_(self._poison, non_blocking=True)  # by the copy engine: no kernel
        self._stream.synchronize()


class DevicePeerMemory(Protocol):
    """A buffer on the device of each rank of a group, addressable by every rank, and signals.

    Signals hold epochs, numbers that only grow. All writing is in the order of streams.

    Attributes:
        rank: this process's place in the group.
        size: number of ranks.
        nbytes: of the buffer of each rank.
        device: this rank's.
    """

    rank: int
    size: int
    nbytes: int
    device: torch.device

    def view(self, rank: int, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor in the buffer of ``rank``, ``offset`` bytes from its beginning."""
        ...

    def signals(self, rank: int) -> Tensor:
        """The signals [SIGNALS] (int32) that lie with ``rank``."""
        ...

    def addresses(self, offset: int) -> Tensor:
        """Where the buffers of all ranks are plus ``offset``, [R] (int64), on this device."""
        ...

    def signal_addresses(self) -> Tensor:
        """Where the signals of all ranks are, [R] (int64), on this device."""
        ...

    def write_signal(self, rank: int, index: int, value: int) -> None:
        """Write a signal of ``rank`` once the current stream has come to here.

        By the copy engine's own write: a kernel could wait behind those that await the signal.
        """
        ...

    def seen(self) -> list[int]:
        """This rank's signals now, for any thread."""
        ...

    def poison(self) -> None:
        """End every wait for this rank's signals; for any thread."""
        ...

    def close(self) -> None:
        """Give it back; views of it must not be used any more."""
        ...
