"""What a transformer computes beside products and attention, as whoever is quickest does it.

``torch`` is the reference; ``compiled`` has torch.compile make one loop of each (regions so small
that nothing breaks them); ``triton`` are our kernels, for GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

OperationsChoice = Literal["auto", "torch", "compiled", "triton"]


@dataclass(frozen=True, kw_only=True)
class Operations:
    """The operations of a model.

    Attributes:
        rms_norm: of x [..., D], weight [D] and eps.
        rotate: of x [B, H, S, Dh] and tables cos, sin [S, Dh] or [B, 1, S, Dh].
        gated: of gate and up, ``silu(gate) * up``.
        cross_entropy_: of logits [T, V] and targets [T]; gives losses [T], and the logits become
            the gradients of the losses' sum.
    """

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    gated: Callable[[Tensor, Tensor], Tensor]
    cross_entropy_: Callable[[Tensor, Tensor], Tensor]


def operations(choice: OperationsChoice, device: torch.device) -> Operations:
    """The operations that were chosen; ``auto``: kernels on a GPU, else torch's."""
    if choice == "auto":
        choice = "triton" if device.type == "cuda" else "torch"
    made: dict[str, Callable[[], Operations]] = {"compiled": _compiled, "triton": _triton}
    return made[choice]() if choice in made else TORCH


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square normalisation (Zhang & Sennrich 2019)."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + Dh/2) by their positions' angles."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """SwiGLU's product (Shazeer 2020)."""
    return F.silu(gate) * up


def cross_entropy_(logits: Tensor, targets: Tensor) -> Tensor:
    """Losses, and gradients in the place of logits."""
    total = torch.logsumexp(logits.float(), dim=-1)
    target = targets.unsqueeze(-1)
    losses: Tensor = total - logits.gather(-1, target).squeeze(-1)
    logits.sub_(total.unsqueeze(-1)).exp_()
    logits.scatter_add_(-1, target, torch.full_like(target, -1, dtype=logits.dtype))
    return losses


TORCH = Operations(rms_norm=rms_norm, rotate=rotate, gated=gated, cross_entropy_=cross_entropy_)


@cache
def _compiled() -> Operations:
    def region(function: Any) -> Any:  # noqa: ANN401
        return torch.compile(function, dynamic=False, fullgraph=True)

    return Operations(
        rms_norm=region(rms_norm),
        rotate=region(rotate),
        gated=region(gated),
        cross_entropy_=cross_entropy_,  # torch's own passes over it are as quick
    )


@cache
def _triton() -> Operations:
    from engine.kernels import cross_entropy, rms_norm, rotary, swiglu

    def rotate_by_tables(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return rotary.rotate(x, cos, sin) if cos.dim() == 2 else rotate(x, cos, sin)

    return Operations(
        rms_norm=rms_norm.rms_norm,
        rotate=rotate_by_tables,
        gated=swiglu.gated,
        cross_entropy_=cross_entropy.cross_entropy_,
    )
