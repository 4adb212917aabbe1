"""A rank that is slow because another process uses its cores."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from engine.faults.rank_fault import Condition, LastingFault

if TYPE_CHECKING:
    from engine.faults.place import Place

_HOG = Path(__file__).with_name("hog.py")


@dataclass(frozen=True, kw_only=True)
class SlowRank(LastingFault):
    """During some steps, each core of one rank is shared with a busy process."""

    name: ClassVar[str] = "slow-rank"
    needs: ClassVar[str] = "Linux, and a core for each rank, to which it is pinned"

    def unavailable(self, *, unpinned: str) -> str:
        return f"ranks cannot be pinned to cores: {unpinned}" if unpinned else ""

    def hook(self, place: Place) -> Hogs:
        return Hogs(self, place)


class Hogs(Condition):
    """One busy process for each core."""

    def __init__(self, fault: SlowRank, place: Place) -> None:
        super().__init__(fault, place)
        self._hogs: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        self._hogs = [_start_hog(core) for core in self._place.cores]

    def undo(self) -> None:
        for hog in self._hogs:
            hog.kill()
            hog.wait()
        self._hogs = []

    def truth(self) -> dict[str, Any]:
        return {"cores": list(self._place.cores)}


def _start_hog(core: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", str(_HOG), str(os.getpid()), str(core)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
