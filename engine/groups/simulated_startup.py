"""The start-up of many ranks as the store sees it: their operations, against a real TCPStore.

Each simulated rank is a thread with a connection of its own. It goes through the groups that
:func:`~engine.groups.startup.own_groups` gives it, and does at the store what torch does for each:
torch's own barrier function, and the exchange of NCCL's id (the first member sets it, the others
get it). What the ranks' backends then do among themselves is not seen here.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import _store_based_barrier

from engine.groups.startup import layout_of, own_groups

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

_TIMEOUT = timedelta(minutes=5)
_NCCL_ID = "0" * 128


@dataclass(frozen=True, kw_only=True)
class StartUp:
    """What it took.

    Attributes:
        ranks: that started.
        operations: of the store, of all ranks together.
        seconds: until the last was ready.
    """

    ranks: int
    operations: int
    seconds: float


class CountingStore:
    """A connection to a store, which counts what it is asked."""

    def __init__(self, store: TCPStore) -> None:
        self._store = store
        self.operations = 0

    def add(self, key: str, amount: int) -> int:
        self.operations += 1
        return int(self._store.add(key, amount))

    def set(self, key: str, value: str) -> None:
        self.operations += 1
        self._store.set(key, value)

    def get(self, key: str) -> bytes:
        self.operations += 1
        return bytes(self._store.get(key))

    def wait(self, keys: list[str], timeout: timedelta) -> None:
        self.operations += 1
        self._store.wait(keys, timeout)


def simulate(pp: int, dp: int, tp: int, *, ordered: bool = True) -> StartUp:
    """Start the ranks of a mesh.

    Args:
        ordered: as we do it; else every rank takes part in every group, as torch's meshes do.
    """
    layout = layout_of(pp, dp, tp)
    ranks = layout.numel()
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    every = list(_all_groups(layout)) if not ordered else []
    ready = threading.Barrier(ranks + 1)

    def start(rank: int) -> int:
        store = CountingStore(TCPStore("127.0.0.1", server.port, wait_for_workers=False))
        ready.wait()
        for axis, members in own_groups(layout, rank) if ordered else every:
            count = len(members) if ordered else ranks
            _make_group(store, f"{axis}{members[0]}", members, rank, count)
        return store.operations

    with ThreadPoolExecutor(ranks) as threads:
        starts = [threads.submit(start, rank) for rank in range(ranks)]
        ready.wait()
        begun = time.monotonic()
        operations = sum(each.result() for each in starts)
        seconds = time.monotonic() - begun
    return StartUp(ranks=ranks, operations=operations, seconds=seconds)


def _make_group(store: CountingStore, name: str, members: list[int], rank: int, count: int) -> None:
    """What torch asks of the store for one group, at whose barrier ``count`` ranks meet."""
    if rank in members and len(members) > 1:
        if rank == members[0]:
            store.set(f"{name}/id", _NCCL_ID)
        else:
            store.get(f"{name}/id")
    _store_based_barrier(rank, store, name, count, _TIMEOUT)  # type: ignore[arg-type]


def _all_groups(layout: torch.Tensor) -> Iterable[tuple[str, list[int]]]:
    seen: dict[tuple[str, int], list[int]] = {}
    for rank in range(layout.numel()):
        for axis, members in own_groups(layout, rank):
            seen.setdefault((axis, members[0]), members)
    return [(axis, members) for (axis, _), members in sorted(seen.items())]
