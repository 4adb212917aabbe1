"""What a rank tells its executor: steps and their numbers, and copies of its state."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from engine.resilience.messages import StepDone
from engine.supervision.snapshot import Snapshot

if TYPE_CHECKING:
    from engine.supervision.rank_link import RankEnd
    from engine.training.optimizer import Optimizer
    from engine.training.weights import Weight
    from engine.training.witness import StepNumbers

_PIECES = 3  # the executor keeps two copies of a rank; one more is being written


class Reporter:
    """A :class:`~engine.training.witness.Witness`.

    Args:
        every: steps between copies; 0: none.
    """

    def __init__(self, link: RankEnd, optimizer: Optimizer, *, rank: int, every: int) -> None:
        self._link = link
        self._optimizer = optimizer
        self._rank = rank
        self._every = every
        self._pieces: list[Snapshot] = []
        self._taken = 0
        self._giving: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="copy")
        self._checksum: Checksum | None = None
        self._intact = True
        self._copied_s = 0.0

    def begins(self) -> None:
        self._link.say("began")

    def before(self, step: int) -> None:
        known = self._checksum
        self._intact = known is None or known == checksum(self._optimizer.weights)

    def updated(self, step: int) -> None:
        self._checksum = checksum(self._optimizer.weights)
        self._copied_s = 0.0
        if self._every and step % self._every == 0:
            begun = time.perf_counter()
            self._copy(step)
            self._copied_s = time.perf_counter() - begun

    def done(self, numbers: StepNumbers) -> None:
        done = StepDone(
            rank=self._rank,
            step=numbers.step,
            seconds=numbers.seconds,
            data_s=numbers.data_s,
            checkpoint_s=numbers.checkpoint_s + self._copied_s,
            loss=_finite(numbers.loss),
            norm=_finite(numbers.norm),
            own_norm=_finite(numbers.own_norm or 0.0),
            intact=self._intact,
        )
        self._link.say("done", done=asdict(done))

    def close(self) -> None:
        """Copies that are under way are given first."""
        self._thread.shutdown(wait=True)
        self._link.close()

    def _copy(self, step: int) -> None:
        """Training waits for the copying only; the checksum is made beside it."""
        if self._giving is not None:
            self._giving.result()
        if len(self._pieces) < _PIECES:
            self._pieces.append(Snapshot(self._optimizer))
        piece = self._pieces[self._taken % _PIECES]
        self._taken += 1
        piece.take(self._optimizer)
        self._giving = self._thread.submit(lambda: self._link.give(piece.memory(step)))


Checksum = tuple[int, ...]


@torch.no_grad()
def checksum(weights: list[Weight]) -> Checksum:
    """Of the bits of this rank's weights: any one that flips changes it."""
    sums = [
        weight.part.detach().view(torch.int32).sum(dtype=torch.int64)
        for weight in weights
        if weight.part.numel()
    ]
    return tuple(torch.stack(sums).tolist())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
