"""Forward and backward over the micro-batches of a step, where one rank holds the whole depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from collectors.board import Activity

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models.transformer import Transformer
    from engine.training.data_parallel import DataParallel
    from engine.training.phases import Phases


class MicroBatches(Protocol):
    """One step's forward and backward, on this rank."""

    def run(self, tokens: Tensor, targets: Tensor, step: int) -> Tensor:
        """Accumulate the gradients of the mean loss over tokens [B, S].

        Returns:
            This rank's mean loss, a scalar; 0 where it does not hold the model's end.
        """
        ...


class Accumulation:
    """One micro-batch after the other.

    Args:
        count: micro-batches in a step.
        data_parallel: told when to reduce; None where there are no replicas.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        count: int,
        data_parallel: DataParallel | None,
        phases: Phases,
    ) -> None:
        self._model = model
        self._count = count
        self._data_parallel = data_parallel
        self._phases = phases

    def run(self, tokens: Tensor, targets: Tensor, step: int) -> Tensor:
        """See :class:`MicroBatches`."""
        total = torch.zeros((), device=tokens.device)
        pairs = zip(tokens.chunk(self._count), targets.chunk(self._count), strict=True)
        for number, (some_tokens, some_targets) in enumerate(pairs, 1):
            with self._phases(Activity.FORWARD, step):
                loss = self._model(some_tokens, some_targets) / self._count
            with self._phases(Activity.BACKWARD, step):
                if self._data_parallel is not None:
                    self._data_parallel.will_scatter(last=number == self._count)
                loss.backward()
            total += loss.detach()
        return total
