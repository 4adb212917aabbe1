"""AdamW or LAMB over parts of tensors: schedule, and norms of the whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from engine.training.lamb import Lamb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.groups.group import Group
    from engine.training.config import OptimizerConfig
    from engine.training.weights import Weight

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What a rule keeps of each weight beside its values."""


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

    It works on this rank's parts of the weights; their norms are those of whole tensors.

    Args:
        sharing: groups whose ranks hold other parts of the same tensors: tp and dp.
        staging: the group whose ranks hold other tensors: pp.

    Attributes:
        rule: torch's optimizer, which holds the moments.
    """

    def __init__(
        self,
        weights: Sequence[Weight],
        config: OptimizerConfig,
        *,
        decay_steps: int,
        sharing: Sequence[Group] = (),
        staging: Group | None = None,
    ) -> None:
        self.weights = list(weights)
        self._config = config
        self._decay_steps = decay_steps
        self._sharing = sharing
        self._staging = staging
        self._twice = {id(weight.part) for weight in weights if _counted_elsewhere(weight, sharing)}
        matrices = [weight.part for weight in weights if weight.parameter.dim() >= 2]
        vectors = [weight.part for weight in weights if weight.parameter.dim() < 2]
        self.rule = self._rule(
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        )

        for weight in weights:
            self.slots(weight).update({name: torch.zeros_like(weight.part) for name in MOMENTS})
        self.go_on_after(0)

    def slots(self, weight: Weight) -> dict[str, Tensor]:
        """What the rule keeps of a weight: :data:`MOMENTS` and ``step``."""
        slots: dict[str, Tensor] = self.rule.state[weight.part]
        return slots

    def go_on_after(self, step: int) -> None:
        """Let the rule's next step be the one after ``step``."""
        for weight in self.weights:
            self.slots(weight)["step"] = torch.tensor(float(step), device=weight.part.device)

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

    def _whole_squares(self, parts: Sequence[Tensor], squares: Tensor) -> Tensor:
        """Parts are summed; what every tensor-parallel rank holds counts once."""
        twice = [id(each) in self._twice for each in parts]
        squares[..., torch.tensor(twice, device=squares.device)] = 0
        return self._summed(squares)

    def step(self, step: int) -> tuple[float, float]:
        """Apply the gradients of ``step``; gives their global norm and the learning rate."""
        parts = [weight.part for weight in self.weights if weight.part.grad is not None]
        norm = self._global_norm(parts)
        if self._config.grad_clip:
            clip_grads_with_norm_(parts, self._config.grad_clip, norm)
        rate = learning_rate(step, self._config, self._decay_steps)
        for group in self.rule.param_groups:
            group["lr"] = rate
        self.rule.step()
        self.publish()
        return float(norm), rate

    @torch.no_grad()
    def publish(self) -> None:
        """Let the model compute with the weights as they are now."""
        pairs = [(w.parameter, w.part) for w in self.weights if w.is_original]
        if pairs:
            copies, originals = zip(*pairs, strict=True)
            torch._foreach_copy_(copies, originals)

    def _global_norm(self, parts: Sequence[Tensor]) -> Tensor:
        """Norm of the whole model's gradient."""
        once = [
            part.grad for part in parts if part.grad is not None and id(part) not in self._twice
        ]
        square = self._summed(get_total_norm(once).square())
        return (square if self._staging is None else self._staging.all_reduce(square)).sqrt()

    def _summed(self, squares: Tensor) -> Tensor:
        for group in self._sharing:
            squares = group.all_reduce(squares)
        return squares


def _counted_elsewhere(weight: Weight, sharing: Sequence[Group]) -> bool:
    """Whether the first tensor-parallel rank holds the same."""
    return weight.tp_dim is None and any(group.axis == "tp" and group.rank for group in sharing)


def own_norm(weights: Sequence[Weight]) -> float:
    """Norm of what this rank holds of the gradient."""
    gradients = [weight.part.grad for weight in weights if weight.part.grad is not None]
    return float(get_total_norm(gradients))


def sum_over(group: Group, parts: Sequence[Tensor]) -> None:
    """Replace the gradients of ``parts`` by their sums over ``group``, all at once."""
    gradients = [each.grad for each in parts if each.grad is not None]
    if group.size == 1 or not gradients:
        return
    total = group.all_reduce(torch.cat([each.flatten() for each in gradients]))
    sums = torch.split(total, [each.numel() for each in gradients])
    torch._foreach_copy_(gradients, [s.view_as(g) for s, g in zip(sums, gradients, strict=True)])
