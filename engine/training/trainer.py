"""The training loop: one step after the other, each phase a recorded span."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from collectors.board import Activity
from engine.models.loss import next_token_loss
from engine.models.sharding import shard_dim
from engine.process_meter import ProcessMeter
from engine.training.optimizer import GradientBuckets, sum_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from collectors.recorder import Recorder
    from engine.groups import CurrentStep
    from engine.models.transformer import Transformer
    from engine.step_hook import StepHook
    from engine.training.config import RunConfig
    from engine.training.loader import BatchLoader
    from engine.training.mesh import Mesh
    from engine.training.optimizer import Optimizer


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What training came to.

    Attributes:
        steps: the last step done.
        loss: mean over that step's batch, nats per token.
        tokens_per_s: over the steps of this process, checkpoints not counted; None without a step.
    """

    steps: int
    loss: float
    tokens_per_s: float | None


class Trainer:
    """Trains one rank's part of the model.

    Args:
        save: writes a checkpoint after the given step; called by every rank.
        hooks: called around every step, in order.
    """

    def __init__(
        self,
        *,
        config: RunConfig,
        model: Transformer,
        optimizer: Optimizer,
        loader: BatchLoader,
        mesh: Mesh,
        recorder: Recorder,
        current_step: CurrentStep,
        save: Callable[[int], None],
        hooks: Sequence[StepHook] = (),
    ) -> None:
        self._config = config
        self._model = model
        self._optimizer = optimizer
        self._loader = loader
        self._mesh = mesh
        self._recorder = recorder
        self._current_step = current_step
        self._save = save
        self._hooks = hooks
        self._meter = ProcessMeter()
        self._first_step = 1
        parameters = list(model.parameters())
        self._replicated = [each for each in parameters if shard_dim(each) is None]
        self._buckets = GradientBuckets(parameters, mesh.dp) if mesh.dp.size > 1 else None

    def train(self, first_step: int = 1) -> TrainingResult:
        """Do steps ``first_step`` to ``train.steps``, saving as the configuration says."""
        self._first_step = first_step
        last_step, every = self._config.train.steps, self._config.checkpoint.every
        loss, seconds = float("nan"), 0.0
        try:
            for step in range(first_step, last_step + 1):
                start = time.perf_counter()
                loss = self._step(step)
                seconds += time.perf_counter() - start
                if step == last_step or (every and step % every == 0):
                    with self._phase(Activity.CHECKPOINT, step):
                        self._save(step)
                        self._mesh.world.barrier()
        finally:
            for hook in self._hooks:
                hook.close()
        steps = last_step - first_step + 1
        rate = self._config.tokens_per_step * steps / seconds if seconds else None
        return TrainingResult(steps=last_step, loss=loss, tokens_per_s=rate)

    def _step(self, step: int) -> float:
        self._current_step.number = step
        for hook in self._hooks:
            hook.on_step_begin(step)
        if self._current_step.board is not None:
            self._current_step.board.step(step, step - self._first_step)
        with self._recorder.span("step", step):
            with self._phase(Activity.DATA, step):
                tokens, targets = self._batch(step)
            with self._phase(Activity.FORWARD, step):
                loss = next_token_loss(self._model(tokens), targets, self._mesh.tp)
            with self._phase(Activity.BACKWARD, step):
                self._zero_gradients()
                loss.backward()  # type: ignore[no-untyped-call]
            mean_loss = self._synchronize(loss, step, split=self._model.splits(tokens))
            with self._phase(Activity.OPTIMIZER, step):
                norm, rate = self._optimizer.step(step)
            value = float(mean_loss)
        self._sample(step, loss=value, grad_norm=norm, learning_rate=rate)
        for hook in self._hooks:
            hook.on_step_end(step)
        return value

    @contextmanager
    def _phase(self, activity: Activity, step: int) -> Iterator[None]:
        """A phase of the step, recorded and on the board."""
        board = self._current_step.board
        if board is not None:
            board.activity(activity)
        with self._recorder.span(activity.name.lower(), step):
            yield
        if board is not None:
            board.activity(Activity.NONE)

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        tokens, targets = self._loader.batch(step)
        device = self._mesh.device
        return torch.from_numpy(tokens).to(device), torch.from_numpy(targets).to(device)

    def _zero_gradients(self) -> None:
        if self._buckets is None:
            self._optimizer.rule.zero_grad()
        else:
            self._buckets.zero()

    def _synchronize(self, loss: Tensor, step: int, *, split: bool) -> Tensor:
        """Average gradients and loss over the data-parallel group; gives the loss.

        Args:
            split: whether each tensor-parallel rank saw its own tokens only.
        """
        if split:
            sum_over(self._mesh.tp, self._replicated)
        if self._buckets is None:
            return loss.detach()
        with self._recorder.span("grad_sync", step):
            self._buckets.average()
            return self._mesh.dp.all_reduce(loss.detach().clone()) / self._mesh.dp.size

    def _sample(self, step: int, **whole_run: float) -> None:
        """Each rank records its own cost; what all ranks agree on is recorded once."""
        usage = self._meter.read()
        self._recorder.sample("cpu_time_s", usage.cpu_time_s, step)
        if usage.run_queue_wait_s is not None:
            self._recorder.sample("run_queue_wait_s", usage.run_queue_wait_s, step)
        if self._mesh.rank == 0:
            self._recorder.sample("tokens", self._config.tokens_per_step, step)
            for name, value in whole_run.items():
                self._recorder.sample(name, value, step)
