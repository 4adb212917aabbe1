"""Next-token cross-entropy, from hidden states: the logits of all tokens are never there at once.

They would be the largest tensor of a step (tokens x vocabulary). So they are made for some tokens
at a time, and turned into their gradients on the spot. Under tensor parallelism each rank has the
logits of its part of the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from engine.models.operations import TORCH, Operations

if TYPE_CHECKING:
    from engine.overlap.linear import ColumnParallelLinear
    from engine.overlap.tensor_parallel import TensorParallelGroup

# Logits at a time: 256 MiB in float32, 512 on a GPU. Each chunk passes over the weight's whole
# gradient once more, which costs more than logits that leave the caches (docs/log.md).
_CHUNK_NUMEL = {"cpu": 1 << 26, "cuda": 1 << 27}


def next_token_loss(
    hidden: Tensor,
    head: ColumnParallelLinear,
    targets: Tensor,
    *,
    split: bool = False,
    by: Operations = TORCH,
) -> Tensor:
    """Mean negative log-likelihood, nats.

    Args:
        hidden: [T, D]; with ``split`` this rank's part of the tokens, else all of them.
        head: the output matrix [V/tp, D].
        targets: [tokens], of all ranks of the tensor-parallel group.
    """
    if head.tp is None:
        loss = _ChunkedCrossEntropy.apply(hidden, head.weight, targets, by)  # type: ignore[no-untyped-call]
        return cast("Tensor", loss)
    logits = head(hidden, split=split).float()
    losses = _VocabParallelCrossEntropy.apply(logits, targets, head.tp)  # type: ignore[no-untyped-call]
    return cast("Tensor", losses).mean()


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The mean loss; its gradients are made with it, so that logits are made once."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        by: Operations,
    ) -> Tensor:
        of_hidden = torch.empty_like(hidden)
        rows = max(1, _CHUNK_NUMEL[hidden.device.type] // weight.shape[0])
        # Several chunks' gradients are added up in float32.
        wide = weight.dtype if hidden.shape[0] <= rows else torch.float32
        of_weight = torch.zeros_like(weight, dtype=wide)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for first in range(0, hidden.shape[0], rows):
            some = slice(first, first + rows)
            logits = (hidden[some] @ weight.t()).float()
            total += by.cross_entropy_(logits, targets[some]).sum()
            gradients = logits.to(weight.dtype)
            torch.mm(gradients, weight, out=of_hidden[some])
            if wide == weight.dtype:
                of_weight.addmm_(gradients.t(), hidden[some])
            else:
                of_weight.add_(gradients.t() @ hidden[some])
        ctx.save_for_backward(of_hidden, of_weight)
        ctx.n_tokens = max(1, hidden.shape[0])
        mean: Tensor = total / ctx.n_tokens
        return mean

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:  # noqa: ANN401
        of_hidden, of_weight = ctx.saved_tensors
        scale = gradient / ctx.n_tokens
        of_hidden = of_hidden * scale.to(of_hidden.dtype)
        return of_hidden, (of_weight * scale).to(of_hidden.dtype), None, None


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
