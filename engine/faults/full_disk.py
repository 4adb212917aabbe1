"""A disk that becomes full while a checkpoint is written to it."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.faults.outside import PassingFault
from engine.faults.saves import save_goes_on
from engine.faults.small_filesystem import why_not_small

if TYPE_CHECKING:
    from pathlib import Path

    from engine.faults.scene import Scene

_FILLER = ".fault-filler"
_LARGEST_BYTES = 64 << 20
_SMALLEST_BYTES = 4 << 10


@dataclass(frozen=True, kw_only=True)
class DiskFull(PassingFault):
    """The checkpoints' file system is full for some time, from the middle of a save on."""

    name: ClassVar[str] = "disk-full"
    needs: ClassVar[str] = "a file system of at most 1 GiB for the checkpoints alone"

    def unavailable(self, scene: Scene) -> str:
        return why_not_small(scene.checkpoints())

    def is_ready(self, scene: Scene) -> bool:
        return save_goes_on(scene.checkpoints())

    def strike(self, scene: Scene) -> None:
        filler = scene.checkpoints() / _FILLER
        self.undone.callback(filler.unlink, missing_ok=True)
        _fill(filler)


def _fill(filler: Path) -> None:
    """Take all that is free, in ever smaller pieces."""
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size, piece = 0, _LARGEST_BYTES
        while piece >= _SMALLEST_BYTES:
            try:
                os.posix_fallocate(descriptor, size, piece)
                size += piece
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece //= 2
    finally:
        os.close(descriptor)
