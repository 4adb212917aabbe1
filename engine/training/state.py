"""The state of training as named tensors: weights, and the optimizer's moments beside each."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from engine.training.optimizer import MOMENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from torch.distributed.tensor import Placement

    from engine.training.mesh import Mesh
    from engine.training.optimizer import Optimizer
    from engine.training.weights import Weight


def moment_name(weight: str, moment: str) -> str:
    """What a checkpoint calls a weight's moment."""
    return f"{weight}/{moment}"


def state_parts(optimizer: Optimizer) -> Iterator[tuple[str, Tensor, Weight]]:
    """Name, this rank's part, and the weight that it is cut like, of everything that is state."""
    for weight in optimizer.weights:
        yield weight.name, weight.part.detach(), weight
        for moment in MOMENTS:
            yield moment_name(weight.name, moment), optimizer.slots(weight)[moment], weight


@contextmanager
def alone() -> Iterator[None]:
    """Around torch's saving and loading without a group, which it warns of even when asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


class StateLayout:
    """Where each rank's parts lie in the whole tensors, in torch's terms."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._tp_by_dp: DeviceMesh | None = None
        if mesh.grid is not None:
            # Tensors are cut by tp first, then each cut by dp: in a DTensor's order of axes.
            ranks = mesh.grid.mesh[mesh.pp.rank].t().contiguous()
            self._tp_by_dp = DeviceMesh("cpu", ranks, _init_backend=False)

    def whole(self, part: Tensor, weight: Weight) -> Tensor:
        """The tensor that ``part`` (on the CPU) is this rank's part of."""
        if self._tp_by_dp is None:
            return part
        of_tp: Placement = Replicate() if weight.tp_dim is None else Shard(weight.tp_dim)
        of_dp: Placement = Shard(0) if self._mesh.dp.size > 1 else Replicate()
        shape = torch.Size(weight.whole_shape(self._mesh.tp.size))
        return DTensor.from_local(
            part,
            self._tp_by_dp,
            (of_tp, of_dp),
            run_check=False,
            shape=shape,
            stride=_contiguous(shape),
        )

    def tp_whole(self, part: Tensor, weight: Weight) -> Tensor:
        """The same of a part that is cut by tp only."""
        if self._mesh.grid is None or weight.tp_dim is None or self._mesh.tp.size == 1:
            return part
        mesh = DeviceMesh("cpu", list(self._mesh.tp.ranks), _init_backend=False)
        return DTensor.from_local(part, mesh, (Shard(weight.tp_dim),), run_check=False)


def _contiguous(shape: torch.Size) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()
