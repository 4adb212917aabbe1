"""AdamW or LAMB over sharded parameters: schedule, global gradient norm, gradient buckets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from engine.models.sharding import shard_dim
from engine.training.lamb import Lamb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from engine.groups import Group
    from engine.training.config import OptimizerConfig

_BUCKET_BYTES = 8 << 20


def learning_rate(step: int, config: OptimizerConfig, decay_steps: int) -> float:
    """Linear warm-up, then half a cosine down to ``min_lr`` (Loshchilov & Hutter 2017).

    Args:
        step: from 1.
        decay_steps: the step at which ``min_lr`` is reached.
    """
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    span = max(1, decay_steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * progress)) / 2


class Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or LAMB, with warm-up, cosine decay and a global gradient
    limit.

    Attributes:
        rule: torch's optimizer, which holds the moments.
    """

    def __init__(
        self, model: nn.Module, config: OptimizerConfig, *, decay_steps: int, tp: Group
    ) -> None:
        self.parameters = dict(model.named_parameters())
        self._config = config
        self._decay_steps = decay_steps
        self._tp = tp
        everything = list(self.parameters.values())
        matrices = [p for p in everything if p.dim() >= 2]
        vectors = [p for p in everything if p.dim() < 2]
        self.rule = self._rule(
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        )
        self._sharded = [p for p in everything if shard_dim(p) is not None]
        self._replicated = [p for p in everything if shard_dim(p) is None]

    def _rule(self, matrices: dict[str, Any], vectors: dict[str, Any]) -> torch.optim.Optimizer:
        config = self._config
        common: dict[str, Any] = {
            "lr": config.lr,
            "betas": (config.beta1, config.beta2),
            "eps": config.eps,
        }
        if config.rule == "adamw":
            return torch.optim.AdamW([matrices, vectors], **common, fused=True)
        groups = [matrices, {**vectors, "adapts": False}]
        return Lamb(groups, **common, whole_squares=self._whole_squares)

    def _whole_squares(self, parameters: Sequence[Tensor], squares: Tensor) -> Tensor:
        """Shards are summed over tp, what every rank holds counts once."""
        whole = [shard_dim(each) is None for each in parameters]
        if self._tp.rank:
            squares[..., torch.tensor(whole, device=squares.device)] = 0
        return self._tp.all_reduce(squares)

    def step(self, step: int) -> tuple[float, float]:
        """Apply the gradients of ``step``; gives their global norm and the learning rate."""
        norm = self._global_norm()
        if self._config.grad_clip:
            everything = self._sharded + self._replicated
            clip_grads_with_norm_(everything, self._config.grad_clip, norm)
        rate = learning_rate(step, self._config, self._decay_steps)
        for group in self.rule.param_groups:
            group["lr"] = rate
        self.rule.step()
        return float(norm), rate

    def _global_norm(self) -> Tensor:
        """Norm over the whole model: shards are summed over tp, replicas count once."""
        squares = get_total_norm(_gradients(self._sharded)).square()
        self._tp.all_reduce(squares)
        return (squares + get_total_norm(_gradients(self._replicated)).square()).sqrt()


class GradientBuckets:
    """Gradients laid out in a few flat tensors, so that few large reductions average them."""

    def __init__(self, parameters: Sequence[nn.Parameter], group: Group) -> None:
        self._group = group
        self._flat = [_lay_out(bucket) for bucket in _buckets(parameters)]

    def zero(self) -> None:
        """Begin a step; backward accumulates into the buckets."""
        for flat in self._flat:
            flat.zero_()

    def average(self) -> None:
        """Replace every gradient by its mean over the group."""
        for flat in self._flat:
            self._group.all_reduce(flat).div_(self._group.size)


def sum_over(group: Group, parameters: Sequence[nn.Parameter]) -> None:
    """Replace the gradients of ``parameters`` by their sums over ``group``, all at once."""
    gradients = _gradients(parameters)
    total = group.all_reduce(torch.cat([each.flatten() for each in gradients]))
    parts = torch.split(total, [each.numel() for each in gradients])
    torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    buckets: list[list[nn.Parameter]] = [[]]
    size = 0
    for parameter in parameters:
        if size + parameter.nbytes > _BUCKET_BYTES and buckets[-1]:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.nbytes
    return buckets


def _lay_out(parameters: Sequence[nn.Parameter]) -> Tensor:
    """A flat tensor whose parts are the gradients of ``parameters``."""
    flat = torch.zeros(
        sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device
    )
    offset = 0
    for parameter in parameters:
        parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    return flat
