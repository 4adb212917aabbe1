"""Causal attention over whole sequences, to all earlier tokens or to a window of them."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# On Hopper torch's own choice is FlashAttention 2, which cuDNN's kernel beats by 1.7 to 2.3.
_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, window: int = 0) -> Tensor:
    """Each token attends to itself and those before it.

    Args:
        q: [B, Hq, S, Dh]. k, v: [B, Hkv, S, Dh].
        window: how many tokens it sees, itself included (Mistral 7B, arXiv 2310.06825, section 2;
            MegaScale, section 3.1); 0: all.
    """
    if not 0 < window < q.shape[2]:
        return _attend(q, k, v, is_causal=True)
    first = causal_attention(*(each[:, :, :window] for each in (q, k, v)))
    return torch.cat((first, _windowed(q, k, v, window)), dim=2)


def _windowed(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Tokens from number ``window`` on, in chunks of as many: each chunk needs its own keys and the
    chunk's before, so the work is O(S window), by any of the library's kernels."""
    batch, _, length, _ = q.shape
    missing = -length % window
    own = _chunks(F.pad(q, (0, 0, 0, missing))[:, :, window:], window, window)
    keys, values = (_chunks(F.pad(each, (0, 0, 0, missing)), 2 * window, window) for each in (k, v))
    out = _attend(own, keys, values, attn_mask=_band(window, q.device))
    whole = out.view(batch, -1, *out.shape[1:]).transpose(1, 2).flatten(2, 3)
    return whole[:, :, : length - window]


def _chunks(x: Tensor, size: int, step: int) -> Tensor:
    """[B, H, S, Dh] as [B n, H, size, Dh]."""
    return x.unfold(2, size, step).transpose(-1, -2).transpose(1, 2).flatten(0, 1)


def _band(window: int, device: torch.device) -> Tensor:
    """Which of two chunks' keys each token of the second sees: [window, 2 window]."""
    back = window + torch.arange(window, device=device)[:, None]
    back = back - torch.arange(2 * window, device=device)
    return (back >= 0) & (back < window)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool = False, attn_mask: Tensor | None = None
) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    with sdpa_kernel(_ORDER, set_priority=True) if q.is_cuda else nullcontext():
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=is_causal, attn_mask=attn_mask, enable_gqa=grouped
        )
