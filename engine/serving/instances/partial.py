"""Attention over a part of the tokens, and what becomes of several parts: running softmax
(Milakov & Gimelshein 2018; FlashAttention, arXiv 2205.14135).

T queries, S keys, Hkv key heads with G query heads each, Dh a head's width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_INFINITE = float("inf")
_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_AT_ONCE = 64  # queries, at least: of narrow windows


class Partial(NamedTuple):
    """Attributes:
    out: float32, [T, Hkv, G, Dh].
    lse: logarithm of the sum of the scores' exponentials, float32, [T, Hkv, G]; -inf where no
        key was seen.
    """

    out: Tensor
    lse: Tensor

    def merge(self, other: Partial, first: int = 0) -> None:
        """Add what other keys give to the queries from number ``first`` on."""
        out, lse = self.out[first:], self.lse[first:]
        share = torch.sigmoid(other.lse - lse).nan_to_num_(nan=0.0)  # of two that saw nothing: none
        out.lerp_(other.out, share.unsqueeze(-1))
        torch.logaddexp(lse, other.lse, out=lse)


def partial_attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, seen: Tensor | None = None
) -> Partial:
    """Scaled dot products, softmax, values.

    Args:
        q: [T, Hkv, G, Dh].
        k, v: [1, Hkv, S, Dh].
        causal: query i sees keys 0 to i.
        seen: [T, S], which keys each query sees; None: all.
    """
    if seen is not None:
        return masked_attention(q, k, v, seen)
    if q.shape[0] == 1:  # the query heads of a key head stand in for tokens
        out, lse = _flash(q, k, v, causal=False)
        return Partial(out.float(), lse)
    # Key heads stand in for sequences: so that those who share one see a view of it, not a copy.
    turned = q.permute(1, 2, 0, 3)
    shared = (-1, q.shape[2], -1, -1)
    keys, values = (each.transpose(0, 1).expand(shared) for each in (k, v))
    out, lse = _flash(turned, keys, values, causal=causal)
    return Partial(out.permute(2, 0, 1, 3).float(), lse.permute(2, 0, 1))


def masked_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Partial:
    """The same for any mask, step by step; queries may see nothing."""
    scores = torch.einsum("thgd,hsd->thgs", q.float(), k[0].float()) * q.shape[-1] ** -0.5
    scores.masked_fill_(~seen[:, None, None], -_INFINITE)
    lse = scores.logsumexp(dim=-1)
    weights = scores.sub_(lse.unsqueeze(-1)).exp_()
    weights.masked_fill_((lse == -_INFINITE).unsqueeze(-1), 0)
    return Partial(torch.einsum("thgs,hsd->thgd", weights, v[0].float()), lse)


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Partial:
    """Query i sees keys i - window + 1 to i: as many keys as queries."""
    found = []
    tokens = q.shape[0]
    places = torch.arange(tokens, device=q.device)
    at_once = max(window, _AT_ONCE)
    for begin in range(0, tokens, at_once):
        first, stop = max(0, begin - window + 1), min(begin + at_once, tokens)
        back = places[begin:stop, None] - places[first:stop]
        seen = (back >= 0) & (back < window)
        keys, values = (each[:, :, first:stop] for each in (k, v))
        found.append(masked_attention(q[begin:stop], keys, values, seen))
    out, lse = (torch.cat(each) for each in zip(*found, strict=True))
    return Partial(out, lse)


def _flash(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Shapes [B, H, T, Dh] and [B, H, S, Dh] to [B, H, T, Dh] and float32 [B, H, T].

    torch's own attention gives no sums: these are the kernels behind it.
    """
    by = torch.ops.aten
    if not q.is_cuda:
        out, lse = _ON_CPU(q, k, v, 0.0, causal)
    elif q.dtype == torch.float32:
        out, lse, *_ = by._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, causal)
        lse = lse[..., : q.shape[2]]
    else:
        out, lse, *_ = by._scaled_dot_product_flash_attention(q, k, v, 0.0, causal)
    return out, lse
