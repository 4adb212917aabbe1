"""Attention with a window, against the definition in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.models.attention import causal_attention  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor


def defined(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], 1) for each in (k, v))
    back = torch.arange(q.shape[2])[:, None] - torch.arange(q.shape[2])
    seen = (back >= 0) & (back < (window or q.shape[2]))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    out: Tensor = scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v
    return out


@pytest.mark.parametrize("window", [0, 1, 2, 5, 8, 12, 23, 24, 99])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_values_and_gradients_are_those_of_the_definition(window: int, kv_heads: int) -> None:
    torch.manual_seed(1)
    for length in (24, 23):
        whole = [torch.randn(2, heads, length, 6) for heads in (4, kv_heads, kv_heads)]
        ours = [each.clone().requires_grad_() for each in whole]
        exact = [each.double().requires_grad_() for each in whole]
        q, k, v = exact
        out, expected = causal_attention(*ours, window=window), defined(q, k, v, window)
        torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=1e-5)
        grad = torch.randn(out.shape)
        out.backward(grad)  # type: ignore[no-untyped-call]
        expected.backward(grad.double())  # type: ignore[no-untyped-call]
        for mine, theirs in zip(ours, exact, strict=True):
            assert mine.grad is not None
            assert theirs.grad is not None
            torch.testing.assert_close(mine.grad.double(), theirs.grad, atol=1e-5, rtol=1e-5)


def test_a_window_as_long_as_the_sequence_changes_no_bit() -> None:
    q, k, v = (torch.randn(1, 2, 16, 8) for _ in range(3))
    assert torch.equal(causal_attention(q, k, v, window=16), causal_attention(q, k, v))
