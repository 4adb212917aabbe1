"""The first stage of a checkpoint: a copy of this rank's state in host memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.training.state import StateLayout, state_parts

if TYPE_CHECKING:
    from torch import Tensor

    from engine.training.mesh import Mesh
    from engine.training.optimizer import Optimizer


class Staging:
    """Host memory that is taken once and used by every checkpoint; pinned beside a GPU.

    Its pages are touched when it is made, so that the first checkpoint is as quick as the others.
    """

    def __init__(self, optimizer: Optimizer, mesh: Mesh) -> None:
        self._optimizer = optimizer
        self._on_gpu = mesh.device.type == "cuda"
        self._copies = {
            name: torch.zeros(part.shape, dtype=part.dtype, pin_memory=self._on_gpu)
            for name, part, _ in state_parts(optimizer)
        }
        layout = StateLayout(mesh)
        self.tensors: dict[str, Tensor] = {
            name: layout.whole(self._copies[name], weight)
            for name, _, weight in state_parts(optimizer)
        }
        """What the ranks' copies make up together, by name."""

    @property
    def nbytes(self) -> int:
        """Of this rank's copy."""
        return sum(copy.nbytes for copy in self._copies.values())

    @torch.no_grad()
    def copy(self) -> None:
        """Take the state as it is now; training may go on when this returns."""
        for name, part, _ in state_parts(self._optimizer):
            self._copies[name].copy_(part, non_blocking=self._on_gpu)
        if self._on_gpu:
            torch.cuda.current_stream().synchronize()
