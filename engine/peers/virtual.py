"""Peer memory of ranks that all live in one process, on one device.

For checks of device code where there is one device or none, and for measurements with an emulated
link: buffers of other ranks then lie in pinned host memory, and the copy engine carries them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.peers.device import SIGNALS, HostAccess, write_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def open_virtual(
    size: int, *, nbytes: int, device: torch.device, linked: Sequence[int] = ()
) -> list[VirtualMemory]:
    """The memory of ``size`` ranks, as each of them sees it.

    Args:
        linked: ranks whose buffers lie in pinned host memory.
    """
    buffers = [
        torch.zeros(nbytes, dtype=torch.uint8, pin_memory=True)
        if rank in linked
        else torch.zeros(nbytes, dtype=torch.uint8, device=device)
        for rank in range(size)
    ]
    signals = [torch.zeros(SIGNALS, dtype=torch.int32, device=device) for _ in range(size)]
    return [VirtualMemory(rank, buffers, signals, device) for rank in range(size)]


class VirtualMemory:
    """:class:`~engine.peers.device.DevicePeerMemory` of one of the ranks."""

    def __init__(
        self, rank: int, buffers: list[Tensor], signals: list[Tensor], device: torch.device
    ) -> None:
        self.rank = rank
        self.size = len(buffers)
        self.nbytes = buffers[0].nbytes
        self.device = device
        self._buffers = buffers
        self._signals = signals
        self._addresses = _table(buffers, device)
        self._signal_addresses = _table(signals, device)
        self._access = HostAccess(signals[rank])

    def view(self, rank: int, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        count = dtype.itemsize * int(torch.Size(shape).numel())
        return self._buffers[rank][offset : offset + count].view(dtype).view(*shape)

    def signals(self, rank: int) -> Tensor:
        return self._signals[rank]

    def addresses(self, offset: int) -> Tensor:
        return self._addresses + offset

    def signal_addresses(self) -> Tensor:
        return self._signal_addresses

    def write_signal(self, rank: int, index: int, value: int) -> None:
        write_value(self._signals[rank], index, value)

    def seen(self) -> list[int]:
        return self._access.seen()

    def poison(self) -> None:
        self._access.poison()

    def close(self) -> None:
        self._buffers.clear()
        self._signals.clear()


def _table(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.tensor([each.data_ptr() for each in tensors], dtype=torch.int64, device=device)
