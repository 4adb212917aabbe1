"""How the ranks of a trainer that knows nothing of opsuite agree on one run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING

import torch.distributed as dist
from torch.distributed import distributed_c10d

from collectors.run import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_TIMES = count()  # a process may watch, stop, and watch again: every rank does so alike
_WAIT = timedelta(seconds=60)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A process among the ranks of its job; (0, 1, 0) without torch.distributed."""

    rank: int
    world_size: int
    local_rank: int

    @classmethod
    def here(cls) -> Place:
        """This process's."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls(rank=0, world_size=1, local_rank=0)
        rank = dist.get_rank()
        local = os.environ.get("LOCAL_RANK", "")
        return cls(
            rank=rank,
            world_size=dist.get_world_size(),
            local_rank=int(local) if local.isdigit() else rank,
        )


def join_run(
    home: Path, place: Place, *, run_id: str | None, begin: Callable[[str | None], RunDirectory]
) -> RunDirectory:
    """The run that this rank is part of.

    Args:
        run_id: of a run that somebody began for it; None: rank 0 begins one, and tells the others
            through the store in which the ranks met.
        begin: makes a run, of a given id or a new one.

    Raises:
        OpsuiteError: the run cannot be made or read.
        RuntimeError: rank 0 did not tell within a minute.
    """
    if run_id is None:
        if place.world_size == 1:
            return begin(None)
        store, key = distributed_c10d._get_default_store(), f"opsuite/run/{next(_TIMES)}"
        if place.rank == 0:
            run = begin(None)
            store.set(key, run.run_id)
            return run
        store.wait([key], _WAIT)
        run_id = store.get(key).decode()
    return RunDirectory.join(home, run_id, begin)
