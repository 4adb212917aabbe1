"""An instance's keys and values: a slot for each token, of any text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.models.config import ModelConfig
    from engine.serving.instances.step import Run

_SHORT = 8  # tokens of usual runs that are written all at once, by an index


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolShape:
    """What the pools of all instances have in common.

    Attributes:
        layers: L.
        queries, heads: Hq and Hkv, of this rank of the instance.
        width: Dh.
    """

    layers: int
    queries: int
    heads: int
    width: int
    dtype: torch.dtype

    @classmethod
    def of(cls, config: ModelConfig, dtype: torch.dtype, tp: int = 1) -> PoolShape:
        """Of a model whose heads are split over ``tp`` ranks."""
        return cls(
            layers=config.n_layers,
            queries=config.n_heads // tp,
            heads=config.n_kv_heads // tp,
            width=config.head_dim,
            dtype=dtype,
        )

    @property
    def row_bytes(self) -> int:
        """Keys of one token in one layer."""
        return self.heads * self.width * self.dtype.itemsize

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.row_bytes


class TokenPool:
    """Preallocated. Neighbouring slots are one view.

    Args:
        memory: where it lies, ``slots * shape.token_bytes`` long (uint8); None: in memory of its
            own on the device.

    Attributes:
        keys, values: of each layer, [1, Hkv, slots, Dh].
    """

    def __init__(
        self,
        shape: PoolShape,
        slots: int,
        *,
        device: torch.device | None = None,
        memory: Tensor | None = None,
    ) -> None:
        self.shape = shape
        self.slots = slots
        sizes = (shape.layers, 2, shape.heads, slots, shape.width)
        if memory is None:
            self._whole = torch.empty(sizes, device=device, dtype=shape.dtype)
        else:
            self._whole = memory[: slots * shape.token_bytes].view(shape.dtype).view(sizes)
        self.keys: list[Tensor] = [layer[0:1] for layer in self._whole]
        self.values: list[Tensor] = [layer[1:2] for layer in self._whole]

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self._whole.device

    def read(self, run: Run) -> Tensor:
        """A copy of all layers, [L, 2, Hkv, tokens, Dh]."""
        return self._whole.narrow(3, run.slot, run.tokens).clone()

    def write(self, run: Run, content: Tensor) -> None:
        """What :meth:`read` gave, here or elsewhere."""
        self._whole.narrow(3, run.slot, run.tokens).copy_(content)

    def like(self, run: Run) -> Tensor:
        """Room for what :meth:`read` gives."""
        sizes = (self.shape.layers, 2, self.shape.heads, run.tokens, self.shape.width)
        return torch.empty(sizes, device=self.device, dtype=self.shape.dtype)


class PoolWriter:
    """Rows of a batch on their way to their slots.

    Args:
        runs: the slots, in the order of the rows.
    """

    def __init__(self, pool: TokenPool, runs: Sequence[Run]) -> None:
        self._pool = pool
        self._rows = sum(run.tokens for run in runs)
        self._whole = [(run.slot, run.tokens) for run in runs]
        self._slots: Tensor | None = None
        if len(runs) > 1 and self._rows <= _SHORT * len(runs):
            slots = [slot for run in runs for slot in range(run.slot, run.slot + run.tokens)]
            self._slots = torch.tensor(slots, device=pool.device)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """The first of k and v [N, Hkv, Dh]."""
        for stored, rows in ((self._pool.keys[layer], k), (self._pool.values[layer], v)):
            by_token = stored[0].transpose(0, 1)
            if self._slots is not None:
                by_token[self._slots] = rows[: self._rows]
                continue
            row = 0
            for slot, tokens in self._whole:
                by_token[slot : slot + tokens] = rows[row : row + tokens]
                row += tokens
