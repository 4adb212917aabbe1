"""Seeds of a simulated world, in several processes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROCESSES = 2
Found = TypeVar("Found")


def in_batches(run: Callable[[Sequence[int]], Found], seeds: int, *, batch: int) -> Iterator[Found]:
    """What ``run`` finds for each batch of seeds, from 0 on and in order, in :data:`PROCESSES`
    processes."""
    batches = [range(first, min(first + batch, seeds)) for first in range(0, seeds, batch)]
    with new_pool() as pool:
        yield from pool.map(run, batches)


def new_pool() -> ProcessPoolExecutor:
    """Processes that share nothing with this one."""
    return ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn"))
