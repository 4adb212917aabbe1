"""Attention over parts of the keys, merged, is attention over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from engine.serving.instances.partial import (  # noqa: E402
    masked_attention,
    partial_attention,
    windowed_attention,
)

if TYPE_CHECKING:
    from torch import Tensor

SHAPES = [(1, 1, 1), (1, 2, 3), (7, 2, 2), (64, 1, 4), (700, 2, 2)]
"""T queries, Hkv key heads, G query heads for each."""


def drawn(tokens: int, heads: int, group: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    q = torch.randn(tokens, heads, group, 16, generator=generator)
    k, v = torch.randn(2, 1, heads, keys, 16, generator=generator)
    return q, k, v


def exact(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """In float64."""
    scores = torch.einsum("thgd,hsd->thgs", q.double(), k[0].double()) / 4
    scores = scores.masked_fill(~seen[:, None, None], float("-inf"))
    out = torch.einsum("thgs,hsd->thgd", scores.softmax(-1), v[0].double())
    return out, scores.logsumexp(-1)


@pytest.mark.parametrize(("tokens", "heads", "group"), SHAPES)
def test_causal_and_full_and_masked(tokens: int, heads: int, group: int) -> None:
    q, k, v = drawn(tokens, heads, group, tokens)
    whole = torch.ones(tokens, tokens, dtype=torch.bool)
    for seen, found in (
        (whole.tril(), partial_attention(q, k, v, causal=True)),
        (whole, partial_attention(q, k, v)),
        (whole.tril(), masked_attention(q, k, v, whole.tril())),
        (whole.tril().triu(-4), windowed_attention(q, k, v, 5)),
    ):
        out, lse = exact(q, k, v, seen)
        assert torch.allclose(found.out.double(), out, atol=2e-6)
        assert torch.allclose(found.lse.double(), lse, atol=2e-6)


@pytest.mark.parametrize(("tokens", "heads", "group"), SHAPES)
def test_parts_in_any_order_make_the_whole(tokens: int, heads: int, group: int) -> None:
    """Some of which a few queries, or none, see."""
    q, k, v = drawn(tokens, heads, group, 50)
    seen = torch.rand(tokens, 50, generator=torch.Generator().manual_seed(1)) < 0.3
    seen[:, 20:25] = False
    seen[:, 49] = True
    out, lse = exact(q, k, v, seen)
    parts = [slice(40, 50), slice(0, 1), slice(20, 25), slice(1, 20), slice(25, 40)]
    for order in (parts, parts[::-1]):
        found = None
        for part in order:
            own = masked_attention(q, k[:, :, part], v[:, :, part], seen[:, part])
            if found is None:
                found = own
            else:
                found.merge(own)
        assert found is not None
        assert torch.allclose(found.out.double(), out, atol=2e-6)
        assert torch.allclose(found.lse.double(), lse, atol=2e-6)


def test_scores_that_are_not_finite_stay_so() -> None:
    """The engine finds a poisoned request by them."""
    q, k, v = drawn(3, 2, 2, 6)
    sound = partial_attention(q, k, v)
    k[0, 0, 2] = float("nan")
    for first, second in ((sound, partial_attention(q, k, v)), (partial_attention(q, k, v), sound)):
        out, lse = first.out.clone(), first.lse.clone()
        merged = type(first)(out, lse)
        merged.merge(second)
        assert merged.out[:, 0].isnan().all()
        assert merged.out[:, 1].isfinite().all()
