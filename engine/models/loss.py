"""Next-token cross-entropy over a vocabulary that may be split over the tensor-parallel group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor

if TYPE_CHECKING:
    from engine.overlap.tensor_parallel import TensorParallelGroup


def next_token_loss(
    logits: Tensor, targets: Tensor, tp: TensorParallelGroup | None = None
) -> Tensor:
    """Mean negative log-likelihood (nats) of targets [B, S] under logits [B, S, V/tp]."""
    if tp is None or tp.size == 1:
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
    losses = _VocabParallelCrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits.flatten(0, 1).float(), targets.flatten(), tp
    )
    return cast("Tensor", losses).mean()


class _VocabParallelCrossEntropy(torch.autograd.Function):
    """Megatron-LM's: no rank ever holds the whole vocabulary's logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, tp: TensorParallelGroup) -> Tensor:  # noqa: ANN401
        size = logits.shape[-1]
        local = targets - tp.rank * size
        here = (local >= 0) & (local < size)
        local = local.clamp(0, size - 1)
        peak = logits.amax(dim=-1)
        exponentials = (logits - peak.unsqueeze(-1)).exp_()
        target = logits.gather(-1, local.unsqueeze(-1)).squeeze(-1) * here
        # What each rank's part comes to, gathered at once: its peak, its sum under that peak.
        parts = torch.stack((peak, exponentials.sum(dim=-1), target))
        peaks, sums, targets_of = tp.gather(parts).unbind(1)
        total = torch.logsumexp(peaks + sums.log(), dim=0)
        exponentials.mul_((peak - total).exp_().unsqueeze(-1))
        ctx.save_for_backward(exponentials, local, here)
        return total - targets_of.sum(dim=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        probabilities, local, here = ctx.saved_tensors
        gradients = probabilities.clone()
        gradients.scatter_add_(-1, local.unsqueeze(-1), -here.to(gradients.dtype).unsqueeze(-1))
        return gradients * gradient.unsqueeze(-1), None, None
