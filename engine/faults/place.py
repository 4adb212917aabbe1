"""Where a fault may strike: what an injector is told of the rank that it is in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from collectors.recorder import Recorder


@dataclass(frozen=True, kw_only=True)
class Place:
    """One rank of a run.

    Attributes:
        rank: global.
        world_size: ranks in all.
        cores: those that this rank is pinned to; none where it is not.
        unpinned: why ranks are not pinned, or "".
        recorder: of this rank; what it is told is the truth that diagnoses may not read.
        markers: directory of the run's :class:`~engine.faults.marker.Marker`.
        modules: this rank's parts of the model, in the order of their stages.
        index: which of the run's faults is asked for, from 0.
    """

    rank: int
    world_size: int
    cores: Sequence[int]
    unpinned: str
    recorder: Recorder
    markers: Path
    modules: Sequence[torch.nn.Module] = ()
    index: int = 0
