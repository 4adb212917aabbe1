"""A rank that the kernel kills because it wants more memory than it may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.faults.cgroup import OwnCgroup, why_no_cgroup
from engine.faults.rank_fault import StepFault, StrikeAtStep

if TYPE_CHECKING:
    from engine.faults.place import Place

_MARGIN_BYTES = 64 << 20
_PIECE_BYTES = 4 << 20
_MOST_BYTES = 8 * _MARGIN_BYTES  # a kernel that has not killed by then never does


@dataclass(frozen=True, kw_only=True)
class OutOfMemory(StepFault):
    """The rank may have little memory more, wants more, and the kernel's OOM killer ends it."""

    name: ClassVar[str] = "oom"
    needs: ClassVar[str] = "root, and memory cgroups of version 1"

    def unavailable(self, *, unpinned: str) -> str:
        return why_no_cgroup("memory")

    def hook(self, place: Place) -> StrikeAtStep:
        return StrikeAtStep(self, place, _use_up)


def _use_up() -> None:
    group = OwnCgroup("memory", {"memory.limit_in_bytes": _MARGIN_BYTES})
    swap = group.path / "memory.memsw.limit_in_bytes"
    if swap.exists():  # else the kernel would swap for long before it kills
        swap.write_text(str(_MARGIN_BYTES))
    pieces: list[bytes] = []
    while len(pieces) * _PIECE_BYTES < _MOST_BYTES:
        pieces.append(b"\1" * _PIECE_BYTES)  # not zeros: these need no memory
    group.close()
