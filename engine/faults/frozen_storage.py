"""Storage that stalls: whoever writes to it waits, as on a network file system that hangs.

By FIFREEZE, which ext4, XFS and btrfs know: one call to the kernel, and no server of ours in the
way of all that is written before and after, as FUSE would need. A process that waits cannot be
killed until the storage thaws; on a hanging NFS mount neither. Reading goes on.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from engine.faults.outside import PassingFault
from engine.faults.saves import save_goes_on
from engine.faults.small_filesystem import kind_of_filesystem, why_not_small

if TYPE_CHECKING:
    from engine.faults.scene import Scene

_FREEZER = Path(__file__).with_name("freezer.py")
_FREEZABLE = ("ext4", "xfs", "btrfs")


@dataclass(frozen=True, kw_only=True)
class FrozenStorage(PassingFault):
    """Writes to the checkpoints' file system stall for some time, from the middle of a save on."""

    name: ClassVar[str] = "frozen-storage"
    needs: ClassVar[str] = (
        "root, and a file system (ext4, XFS, btrfs) of at most 1 GiB for the checkpoints alone"
    )

    def unavailable(self, scene: Scene) -> str:
        if reason := why_not_small(scene.checkpoints()):
            return reason
        kind = kind_of_filesystem(scene.checkpoints())
        return "" if kind in _FREEZABLE else f"a file system of kind {kind} cannot be frozen"

    def is_ready(self, scene: Scene) -> bool:
        return save_goes_on(scene.checkpoints())

    def strike(self, scene: Scene) -> None:
        # A process of its own thaws: also where this one is killed meanwhile.
        command = [sys.executable, "-I", "-S", str(_FREEZER)]
        freezer = subprocess.Popen(
            [*command, str(scene.checkpoints()), str(self.seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
            cwd="/",
        )
        self.undone.callback(freezer.communicate)  # it thaws when its stdin is closed
        assert freezer.stdout is not None
        if (said := freezer.stdout.readline().strip()) != "frozen":
            self.undone.close()
            raise OSError(f"the file system cannot be frozen: {said}")
