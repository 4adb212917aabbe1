"""LAMB against its algorithm in float64, against AdamW, and over shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.training.lamb import Lamb  # noqa: E402

RATE, BETAS, EPS, DECAY = 0.02, (0.9, 0.95), 1e-6, 0.1

if TYPE_CHECKING:
    from torch import Tensor


def lamb(groups: list[dict[str, object]], whole: object = None) -> Lamb:
    here = lambda _parameters, squares: squares  # noqa: E731
    return Lamb(groups, lr=RATE, betas=BETAS, eps=EPS, whole_squares=whole or here)  # type: ignore[arg-type]


def algorithm(weight: Tensor, gradients: list[Tensor]) -> Tensor:
    """Algorithm 2 of the paper, with bias correction."""
    w, m, v = weight.double(), torch.zeros_like(weight).double(), torch.zeros_like(weight).double()
    for t, gradient in enumerate(gradients, 1):
        g = gradient.double()
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * g * g
        r = (m / (1 - BETAS[0] ** t)) / ((v / (1 - BETAS[1] ** t)).sqrt() + EPS)
        u = r + DECAY * w
        w = w - RATE * float(w.norm() / u.norm()) * u
    return w


def test_it_is_the_algorithm() -> None:
    torch.manual_seed(4)
    weights = [torch.nn.Parameter(torch.randn(6, 5)), torch.nn.Parameter(torch.randn(3))]
    gradients = [[torch.randn_like(w) for w in weights] for _ in range(7)]
    exact = [algorithm(w.detach(), [g[i] for g in gradients]) for i, w in enumerate(weights)]
    rule = lamb([{"params": weights, "weight_decay": DECAY}])
    for of_step in gradients:
        for weight, gradient in zip(weights, of_step, strict=True):
            weight.grad = gradient
        rule.step()
    for weight, expected in zip(weights, exact, strict=True):
        torch.testing.assert_close(weight.detach().double(), expected, atol=1e-6, rtol=1e-6)


def test_with_a_ratio_of_one_it_is_adamw() -> None:
    """As norms and biases are updated; their moments are named alike, too."""
    torch.manual_seed(5)
    ours = torch.nn.Parameter(torch.randn(9))
    theirs = torch.nn.Parameter(ours.detach().clone())
    rule = lamb([{"params": [ours], "weight_decay": DECAY, "adapts": False}])
    adamw = torch.optim.AdamW([theirs], lr=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY)
    for _ in range(6):
        ours.grad = torch.randn(9)
        theirs.grad = ours.grad.clone()
        rule.step()
        adamw.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    for moment in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(rule.state[ours][moment], adamw.state[theirs][moment])


def test_nothing_moves_a_weight_of_zeros_by_a_ratio_of_zero() -> None:
    weight = torch.nn.Parameter(torch.zeros(4))
    rule = lamb([{"params": [weight], "weight_decay": DECAY}])
    weight.grad = torch.ones(4)
    rule.step()
    torch.testing.assert_close(weight.detach(), torch.full((4,), -RATE), atol=1e-6, rtol=1e-4)
    weight.grad = None
    rule.step()
