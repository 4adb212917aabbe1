"""Peer memory of CUDA ranks of one host that reach each other by NVLink or PCIe.

It is torch's symmetric memory: every rank allocates, a rendezvous maps all of it everywhere. The
driver frees it with the last process, however that ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from engine.peers.device import SIGNALS, HostAccess, write_value
from engine.peers.opening import NotShared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_HEADER = SIGNALS * 4  # bytes; the signals lie before the buffer


def open_symmetric(
    process_group: dist.ProcessGroup, *, nbytes: int, device: torch.device
) -> SymmetricMemory:
    """Memory of CUDA ranks; every rank of the group calls this, with the same number.

    Raises:
        NotShared: the devices do not reach each other.
    """
    import torch.distributed._symmetric_memory as symmetric

    try:
        mine = symmetric.empty(_HEADER + nbytes, dtype=torch.uint8, device=device)
        mine[:_HEADER].zero_()
        torch.cuda.synchronize(device)
        handle = symmetric.rendezvous(mine, process_group)
    except RuntimeError as error:
        raise NotShared(
            f"symmetric memory: {error}".partition("\n")[0],
            where=str(device),
            remedy="set parallel.transport to collective",
        ) from error
    dist.barrier(process_group)  # nobody signals before all have cleared theirs
    return SymmetricMemory(mine, handle, nbytes=nbytes)


class SymmetricMemory:
    """:class:`~engine.peers.device.DevicePeerMemory` over torch's handle."""

    def __init__(self, mine: Tensor, handle: object, *, nbytes: int) -> None:
        from torch._C._distributed_c10d import _SymmetricMemory

        assert isinstance(handle, _SymmetricMemory)
        self.rank = handle.rank
        self.size = handle.world_size
        self.nbytes = nbytes
        self.device = mine.device
        self._mine = mine
        self._handle = handle
        # Made once: to upload a table, the host may wait for the device.
        self._addresses = torch.tensor(handle.buffer_ptrs, dtype=torch.int64, device=self.device)
        self._signals = [
            handle.get_buffer(rank, [SIGNALS], torch.int32, 0) for rank in range(self.size)
        ]
        self._access = HostAccess(self._signals[self.rank])

    def view(self, rank: int, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        begin = (_HEADER + offset) // dtype.itemsize
        return self._handle.get_buffer(rank, torch.Size(shape), dtype, begin)

    def signals(self, rank: int) -> Tensor:
        return self._signals[rank]

    def addresses(self, offset: int) -> Tensor:
        return self._addresses + (_HEADER + offset)

    def signal_addresses(self) -> Tensor:
        return self._addresses

    def write_signal(self, rank: int, index: int, value: int) -> None:
        write_value(self._signals[rank], index, value)

    def seen(self) -> list[int]:
        return self._access.seen()

    def poison(self) -> None:
        self._access.poison()

    def close(self) -> None:
        self._signals.clear()
        del self._access, self._mine, self._handle
