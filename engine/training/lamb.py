"""LAMB (You et al., "Large Batch Optimization for Deep Learning", arXiv 1904.00962, algorithm 2).

AdamW whose step is as long, tensor by tensor, as the tensor's norm says. With a ratio of 1 it is
AdamW. MegaScale trains with four times the batch by it (section 3.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    WholeSquares = Callable[[Sequence[Tensor], Tensor], Tensor]


class Lamb(torch.optim.Optimizer):
    """Groups of parameters may say ``adapts=False``: their ratio is 1, as suits biases and norms.

    Args:
        whole_squares: makes sums of squares [..., P] of the parts that this rank holds of P
            parameters those of the whole parameters.
    """

    def __init__(
        self,
        parameters: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        whole_squares: WholeSquares,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "adapts": True})
        self._whole_squares = whole_squares

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply the gradients; every rank that holds a part of a parameter calls this."""
        assert closure is None
        for group in self.param_groups:
            parameters: list[Tensor] = [each for each in group["params"] if each.grad is not None]
            if not parameters:
                continue
            updates = self._updates(parameters, group)
            if group["adapts"]:
                ratios = self._ratios(parameters, updates)
                torch._foreach_mul_(updates, ratios)
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _updates(self, parameters: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """AdamW's, for a rate of 1."""
        beta1, beta2 = group["betas"]
        states = [self._state_of(each) for each in parameters]
        gradients = [each.grad for each in parameters if each.grad is not None]
        means = [state["exp_avg"] for state in states]
        squares = [state["exp_avg_sq"] for state in states]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        for state in states:
            state["step"] += 1
        step = int(states[0]["step"])
        roots = torch._foreach_sqrt(torch._foreach_div(squares, 1 - beta2**step))
        torch._foreach_add_(roots, group["eps"])
        updates = list(torch._foreach_div(torch._foreach_div(means, 1 - beta1**step), roots))
        if group["weight_decay"]:
            torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])
        return updates

    def _ratios(self, parameters: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
        """Norm of the whole parameter over that of its whole update; 1 where either is 0."""
        norms = [torch.stack(torch._foreach_norm(each)) for each in (parameters, updates)]
        of_parameters, of_updates = self._whole_squares(
            parameters, torch.stack(norms).square()
        ).sqrt()
        usable = (of_parameters > 0) & (of_updates > 0)
        return list(torch.where(usable, of_parameters / of_updates, 1.0).unbind())

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        """Named as AdamW's, so that a checkpoint of one serves the other."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state
