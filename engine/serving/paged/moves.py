"""Moving blocks between the device and the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.serving.paged.storage import Storage


class Move(Protocol):
    """Blocks on their way."""

    def done(self) -> bool:
        """Whether they have arrived."""
        ...

    def wait(self) -> None:
        """Until they have."""
        ...


class Mover(Protocol):
    """Begins moves; blocks of both sides stay as they are until a move is done."""

    def offload(self, blocks: Sequence[int], host: Sequence[int]) -> Move:
        """The device's ``blocks`` to the host's."""
        ...

    def upload(self, host: Sequence[int], blocks: Sequence[int]) -> Move:
        """The host's blocks to the device's."""
        ...


def mover_of(storage: Storage) -> Mover:
    """The one for where the storage lies."""
    on_gpu = storage.device_blocks.is_cuda
    return StreamMover(storage) if on_gpu else MemoryMover(storage)


class _Done:
    def done(self) -> bool:
        return True

    def wait(self) -> None:
        return


class MemoryMover:
    """Where the device's memory is the host's: copied at once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def offload(self, blocks: Sequence[int], host: Sequence[int]) -> Move:
        taken = self._storage.device_blocks.index_select(3, torch.tensor(blocks))
        self._storage.host_blocks[torch.tensor(host)] = taken.movedim(3, 0)
        return _Done()

    def upload(self, host: Sequence[int], blocks: Sequence[int]) -> Move:
        taken = self._storage.host_blocks[torch.tensor(host)].movedim(0, 3)
        self._storage.device_blocks.index_copy_(3, torch.tensor(blocks), taken)
        return _Done()


class _Recorded:
    def __init__(self, stream: torch.cuda.Stream, *kept: Tensor) -> None:
        event: Any = torch.cuda.Event  # untyped in some releases of torch
        self._event = event()
        self._event.record(stream)
        self._kept = kept  # the host may not reuse what the stream still reads

    def done(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        self._event.synchronize()


class StreamMover:
    """A GPU's: each direction has a stream of its own, beside the one that computes.

    Never run where this was written: no GPU was there.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._device = storage.device_blocks.device
        stream: Any = torch.cuda.Stream
        self._out, self._in = stream(self._device), stream(self._device)

    def offload(self, blocks: Sequence[int], host: Sequence[int]) -> Move:
        index = self._index(blocks)
        self._out.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._out):
            taken = self._storage.device_blocks.index_select(3, index).movedim(3, 0).contiguous()
            for start, stop, at in _runs(host):
                self._storage.host_blocks[at : at + stop - start].copy_(
                    taken[start:stop], non_blocking=True
                )
        index.record_stream(self._out)
        return _Recorded(self._out, taken)

    def upload(self, host: Sequence[int], blocks: Sequence[int]) -> Move:
        index = self._index(blocks)
        self._in.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._in):
            pieces = [
                self._storage.host_blocks[at : at + stop - start].to(
                    self._device, non_blocking=True
                )
                for start, stop, at in _runs(host)
            ]
            brought = torch.cat(pieces).movedim(0, 3)
            self._storage.device_blocks.index_copy_(3, index, brought)
        index.record_stream(self._in)
        return _Recorded(self._in, brought)

    def _index(self, blocks: Sequence[int]) -> Tensor:
        return torch.tensor(blocks, device=self._device)


def _runs(blocks: Sequence[int]) -> list[tuple[int, int, int]]:
    """Stretches of neighbours: (start, stop) in the list, and the first block."""
    found: list[tuple[int, int, int]] = []
    start = 0
    for at in range(1, len(blocks) + 1):
        if at == len(blocks) or blocks[at] != blocks[at - 1] + 1:
            found.append((start, at, blocks[start]))
            start = at
    return found
