"""Time choices for a case until one is found to be the fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from engine.overlap.choices import Choices, Sizes
from engine.overlap.device import DeviceTransport
from engine.overlap.kernels.tile_shape import LEAST_SHARED, SHARED_LIMITS
from engine.overlap.shared import SharedTransport
from engine.overlap.tuning import Search, cuda_choices, part_choices

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.overlap.choices import Choice, Operation
    from engine.overlap.tensor_parallel import TensorParallelGroup
    from engine.overlap.timing.case import Case

_OPERATIONS: dict[str, Operation] = {
    "all_gather_matmul": "all_gather_matmul",
    "matmul_reduce_scatter": "reduce_scatter",
    "matmul_all_reduce": "all_reduce",
}


def sizes_of(case: Case, size: int, dtype: torch.dtype) -> Sizes:
    """What one of ``size`` ranks multiplies in a case."""
    gathers = case.operator == "all_gather_matmul"
    n, k = (case.n // size, case.k) if gathers else (case.n, case.k // size)
    return Sizes.of(_OPERATIONS[case.operator], case.m, n, k, dtype)


def tune(
    case: Case,
    group: TensorParallelGroup,
    *,
    dtype: torch.dtype,
    device: torch.device,
    measure: Callable[[], float],
) -> tuple[Sizes, Choice, float] | None:
    """The fastest choice, which the group's transport has from here on, and its seconds.

    Args:
        measure: seconds of the operator on this rank, once.

    Returns:
        None where the transport has nothing to choose.
    """
    transport = group.transport
    if not isinstance(transport, SharedTransport | DeviceTransport):
        return None
    sizes = sizes_of(case, group.size, dtype)
    before = transport.choices.table
    search = Search(_candidates(sizes, dtype, device))
    while (choice := search.next()) is not None:
        transport.choices = Choices({sizes: choice})
        slowest = torch.tensor(measure(), dtype=torch.float64, device=device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX, group=group.process_group)
        search.tell(choice, float(slowest))
    transport.choices = Choices({**before, sizes: search.best})
    return sizes, search.best, search.seconds(search.best)


def _candidates(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> list[Choice]:
    if device.type == "cpu":
        return part_choices()
    major, minor = torch.cuda.get_device_capability(device)
    limit = SHARED_LIMITS.get(10 * major + minor, LEAST_SHARED)
    return cuda_choices(sizes.operation, dtype.itemsize, limit)
