"""The training loop: one step after the other, each phase a recorded span."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from collectors.board import Activity
from engine.metering.process_meter import ProcessMeter
from engine.training.optimizer import own_norm, sum_over
from engine.training.witness import StepNumbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from collectors.recorder import Recorder
    from engine.groups.group import CurrentStep
    from engine.step_hook import StepHook
    from engine.training.accounting import Accounting, Achieved
    from engine.training.batch import Batches
    from engine.training.config import RunConfig
    from engine.training.mesh import Mesh
    from engine.training.phases import Phases
    from engine.training.replica import Replica
    from engine.training.saver import Saver
    from engine.training.witness import Witness

READ = "data.read"
"""The event that tells which samples a replica read for a step."""
_MOST_TOLD = 1024


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What training came to.

    Attributes:
        steps: the last step done.
        loss: mean over that step's batch, nats per token.
        achieved: over the steps of this process, checkpoints not counted; None without a step, and
            where another rank accounts.
    """

    steps: int
    loss: float
    achieved: Achieved | None


class Trainer:
    """Trains one rank's share of the model.

    Args:
        saver: writes checkpoints.
        accounting: of what the run achieves.
        hooks: called around every step, in order.
        witness: is told what each step comes to.
    """

    def __init__(
        self,
        *,
        config: RunConfig,
        replica: Replica,
        batches: Batches,
        mesh: Mesh,
        phases: Phases,
        recorder: Recorder,
        current_step: CurrentStep,
        saver: Saver,
        accounting: Accounting,
        hooks: Sequence[StepHook] = (),
        witness: Witness | None = None,
    ) -> None:
        self._config = config
        self._replica = replica
        self._optimizer = replica.optimizer
        self._batches = batches
        self._mesh = mesh
        self._phases = phases
        self._recorder = recorder
        self._current_step = current_step
        self._saver = saver
        self._hooks = hooks
        self._witness = witness
        self._data_s = 0.0
        self._norms: tuple[float, float | None] = (0.0, None)
        self._meter = ProcessMeter()
        self._accounting = accounting
        self._first_step = 1
        weights = replica.optimizer.weights
        self._whole = [each.part for each in weights if each.tp_dim is None]
        self._partial = [each.part for each in weights if each.cut.partial]

    def train(self, first_step: int = 1, samples: int = 0) -> TrainingResult:
        """Do steps ``first_step`` to ``train.steps``, saving as the configuration says.

        Args:
            samples: how many were learned from before.
        """
        self._first_step = first_step
        last_step, every = self._config.train.steps, self._config.checkpoint.every
        loss, seconds = float("nan"), 0.0
        if self._witness is not None:
            self._witness.begins()
        ended = time.perf_counter()
        try:
            for step in range(first_step, last_step + 1):
                start = time.perf_counter()
                loss = self._step(step, samples)
                samples += self._config.train.batch_size
                took = time.perf_counter() - start
                seconds += took
                self._accounting.record(step, took)
                saving = time.perf_counter()
                if step == last_step or (every and step % every == 0):
                    with self._phases(Activity.CHECKPOINT, step):
                        self._saver.save(step, samples)
                now = time.perf_counter()
                self._tell(step, loss, seconds=now - ended, checkpoint_s=now - saving)
                ended = now
            with self._phases(Activity.CHECKPOINT, last_step):
                if first_step > last_step:  # done before, and lost before it was saved
                    self._saver.save(last_step, samples)
                self._saver.finish_last(last_step, samples)
        finally:
            self._saver.close()
            self._meter.close()
            for hook in self._hooks:
                hook.close()
        achieved = self._accounting.achieved(seconds, last_step - first_step + 1)
        return TrainingResult(steps=last_step, loss=loss, achieved=achieved)

    def _tell(self, step: int, loss: float, *, seconds: float, checkpoint_s: float) -> None:
        if self._witness is None:
            return
        norm, own = self._norms
        self._witness.done(
            StepNumbers(
                step=step,
                seconds=seconds,
                data_s=self._data_s,
                checkpoint_s=checkpoint_s,
                loss=loss,
                norm=norm,
                own_norm=own,
            )
        )

    def _step(self, step: int, samples: int) -> float:
        self._current_step.number = step
        if self._witness is not None:
            self._witness.before(step)
        for hook in self._hooks:
            hook.on_step_begin(step)
        if self._current_step.board is not None:
            self._current_step.board.step(step, step - self._first_step)
        with self._recorder.span("step", step):
            if self._replica.data_parallel is not None:
                self._replica.data_parallel.begin()
            waiting = time.perf_counter()
            with self._phases(Activity.DATA, step):
                tokens, targets = self._batch(step, samples)
            self._data_s = time.perf_counter() - waiting
            loss = self._replica.micro_batches.run(tokens, targets, step)
            mean_loss = self._synchronize(loss, step)
            with self._phases(Activity.OPTIMIZER, step):
                norm, rate = self._optimizer.step(step)
                self._norms = (norm, self._norms[1])
                if self._witness is not None:
                    self._witness.updated(step)
                for weight in self._optimizer.weights:
                    weight.drop_gradient()
            value = float(mean_loss)
        self._sample(step, loss=value, grad_norm=norm, learning_rate=rate)
        for hook in self._hooks:
            hook.on_step_end(step)
        return value

    def _batch(self, step: int, samples: int) -> tuple[Tensor, Tensor]:
        batch = self._batches.batch(step, samples)
        if self._mesh.tp.rank == 0 and self._mesh.pp.rank == 0:
            self._recorder.event(
                READ, subject=step, attributes={"samples": batch.samples[:_MOST_TOLD]}
            )
        device = self._mesh.device
        return torch.from_numpy(batch.tokens).to(device), torch.from_numpy(batch.targets).to(device)

    def _synchronize(self, loss: Tensor, step: int) -> Tensor:
        """Have every rank hold its part of the whole batch's gradient; gives the mean loss."""
        with self._recorder.span("grad_sync", step):
            if self._replica.data_parallel is not None:
                self._replica.data_parallel.finish()
            for weight in self._optimizer.weights:
                weight.take_gradient()
            if self._witness is not None:
                self._norms = (0.0, self._own_norm())
            split = self._replica.parts[0].splits(self._tokens_at_a_time)
            sum_over(self._mesh.tp, self._whole if split else self._partial)
            loss = self._mesh.dp.all_reduce(loss) / self._mesh.dp.size
            return self._mesh.pp.all_reduce(loss)

    def _own_norm(self) -> float:
        """Of this rank's gradient, whatever the others' are."""
        if self._replica.data_parallel is not None:
            return self._replica.data_parallel.take_own_norm()
        return own_norm(self._optimizer.weights)

    @property
    def _tokens_at_a_time(self) -> int:
        parts = self._mesh.dp.size * self._config.train.micro_batches
        return self._config.tokens_per_step // parts

    def _sample(self, step: int, **whole_run: float) -> None:
        """Each rank records its own cost; what all ranks agree on is recorded once."""
        self._meter.read().record(self._recorder, step)
        if self._mesh.rank == 0:
            self._recorder.sample("tokens", self._config.tokens_per_step, step)
            for name, value in whole_run.items():
                self._recorder.sample(name, value, step)
