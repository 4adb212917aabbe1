"""The state of a rank as one piece of memory: written after a step, read by who goes on from it.

A header says what lies where: the same tensors must be there, in the same shapes, when it is read
back, so copies fit the mesh that they were made on only.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from typing import TYPE_CHECKING

import torch

from collectors.errors import DataError
from engine.supervision.rank_link import CopyMemory
from engine.training.state import state_parts

if TYPE_CHECKING:
    from torch import Tensor

    from engine.training.optimizer import Optimizer

_LENGTH = struct.Struct("<Q")
_ALIGNED = 64


class Snapshot:
    """A piece of memory with room for the state of ``optimizer``; used again and again."""

    def __init__(self, optimizer: Optimizer) -> None:
        parts = [(name, part) for name, part, _ in state_parts(optimizer)]
        header, offsets, size = _layout(parts)
        self._descriptor = os.memfd_create("opsuite-copy", os.MFD_CLOEXEC)
        os.posix_fallocate(self._descriptor, 0, size)
        self._memory = mmap.mmap(self._descriptor, size)
        self._memory[: len(header)] = header
        self._views = _views(self._memory, parts, offsets)

    @torch.no_grad()
    def take(self, optimizer: Optimizer) -> None:
        """Copy the state as it is now."""
        for view, (_, part, _) in zip(self._views, state_parts(optimizer), strict=True):
            view.copy_(part)

    def memory(self, step: int) -> CopyMemory:
        """What was taken, with its checksum; the descriptor stays this object's."""
        return CopyMemory(
            step=step,
            size_bytes=len(self._memory),
            crc32=zlib.crc32(self._memory),
            descriptor=self._descriptor,
        )


@torch.no_grad()
def restore_from(copy: CopyMemory, optimizer: Optimizer) -> None:
    """Take the weights and moments from a copy, and close it.

    Raises:
        DataError: it was altered, or is of another model or mesh.
    """
    with os.fdopen(copy.descriptor, "rb") as file:
        memory = mmap.mmap(
            file.fileno(),
            copy.size_bytes,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
            flags=mmap.MAP_PRIVATE,
        )
    where = f"the copy after step {copy.step}"
    if zlib.crc32(memory) != copy.crc32:
        raise DataError("the state in memory was altered (checksum)", where=where)
    parts = [(name, part) for name, part, _ in state_parts(optimizer)]
    header, offsets, size = _layout(parts)
    if size != copy.size_bytes or memory[: len(header)] != header:
        raise DataError("the state in memory is of another model or mesh", where=where)
    for view, (_, part) in zip(_views(memory, parts, offsets), parts, strict=True):
        part.copy_(view)
    optimizer.publish()
    optimizer.go_on_after(copy.step)


def _layout(parts: list[tuple[str, Tensor]]) -> tuple[bytes, list[int], int]:
    """The header, where each part lies, and the size of all."""
    names = json.dumps([[name, str(part.dtype), list(part.shape)] for name, part in parts]).encode()
    header = _LENGTH.pack(len(names)) + names
    offset, offsets = len(header), []
    for _, part in parts:
        offset += -offset % _ALIGNED
        offsets.append(offset)
        offset += part.nbytes
    return header, offsets, offset


def _views(memory: mmap.mmap, parts: list[tuple[str, Tensor]], offsets: list[int]) -> list[Tensor]:
    return [
        torch.frombuffer(memory, dtype=part.dtype, count=part.numel(), offset=offset).view(
            part.shape
        )
        if part.numel()
        else torch.empty(part.shape, dtype=part.dtype)
        for (_, part), offset in zip(parts, offsets, strict=True)
    ]
