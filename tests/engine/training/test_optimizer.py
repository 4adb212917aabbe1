"""The schedule's shape, and one gradient norm however parameters are grouped."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.training.config import OptimizerConfig  # noqa: E402
from engine.training.optimizer import Optimizer, learning_rate  # noqa: E402
from engine.training.weights import tp_cuts, weights_of  # noqa: E402


def test_the_rate_rises_and_falls_to_its_end() -> None:
    config = OptimizerConfig(lr=1.0, min_lr=0.1, warmup_steps=10)
    rates = [learning_rate(step, config, 100) for step in range(1, 121)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert max(rates) == rates[9]
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[54] == pytest.approx(0.55, abs=1e-9)  # the cosine's middle
    assert rates[99:] == [pytest.approx(0.1)] * 21


def test_gradients_are_limited_and_vectors_do_not_decay() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 8)
    reference = torch.nn.Linear(8, 8)
    reference.load_state_dict(model.state_dict())
    config = OptimizerConfig(lr=0.1, min_lr=0.1, warmup_steps=0, weight_decay=0.5, grad_clip=0.01)
    x = torch.randn(4, 8)
    ours = Optimizer(weights_of([model], tp_cuts([model])), config, decay_steps=1)
    model(x).sum().backward()
    norm, rate = ours.step(1)

    reference(x).sum().backward()
    expected = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.01)
    torch.optim.AdamW(
        [
            {"params": [reference.weight], "weight_decay": 0.5},
            {"params": [reference.bias], "weight_decay": 0.0},
        ],
        lr=0.1,
        betas=(0.9, 0.95),
    ).step()
    assert norm == pytest.approx(float(expected), rel=1e-6)
    assert rate == 0.1
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, reference.get_parameter(name))
