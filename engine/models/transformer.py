"""The decoder. Module names are Hugging Face's Llama names, so a state dict needs no mapping.

Shapes: B sequences, S tokens, D hidden, Hq/Hkv query and key-value heads of this rank, Dh head
width, V vocabulary. Under tensor parallelism every rank holds Hq/tp heads, and V/tp logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor, nn

from engine.overlap.linear import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    column_parallel,
)

if TYPE_CHECKING:
    from engine.groups import Group
    from engine.models.config import ModelConfig


class AttentionCache(Protocol):
    """Keys and values of earlier tokens, and attention over them."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the new k, v [B, Hkv, S, Dh] and attend with q [B, Hq, S, Dh] to all so far."""
        ...


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class RotaryPositions(nn.Module):
    """Cosines and sines of the rotary position embedding (RoFormer; halves paired as in Llama)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        angles = torch.outer(
            torch.arange(config.max_seq_len, dtype=torch.float32), config.rope_theta**-exponents
        )
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, length: int, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tables [S, Dh] for positions 0..S-1, or [B, 1, S, Dh] for ``positions`` [B, S]."""
        if positions is None:
            return self.cos[:length], self.sin[:length]
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + Dh/2) of x [B, H, S, Dh] by their positions' angles."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Grouped-query causal self-attention; heads are split over the tensor-parallel group."""

    def __init__(self, config: ModelConfig, layer: int, tp: Group | None) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        kv_size = config.n_kv_heads * config.head_dim
        self.q_proj = ColumnParallelLinear(config.hidden_size, config.hidden_size, tp)
        self.k_proj = ColumnParallelLinear(config.hidden_size, kv_size, tp)
        self.v_proj = ColumnParallelLinear(config.hidden_size, kv_size, tp)
        self.o_proj = RowParallelLinear(config.hidden_size, config.hidden_size, tp)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: AttentionCache | None
    ) -> Tensor:
        q, k, v = map(self._heads, column_parallel(x, self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is None:
            grouped = q.shape[1] != k.shape[1]
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        else:
            out = cache.attend(self.layer, q, k, v)
        return cast("Tensor", self.o_proj(out.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, tp: Group | None) -> None:
        super().__init__()
        self.gate_proj = ColumnParallelLinear(config.hidden_size, config.intermediate_size, tp)
        self.up_proj = ColumnParallelLinear(config.hidden_size, config.intermediate_size, tp)
        self.down_proj = RowParallelLinear(config.intermediate_size, config.hidden_size, tp)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = column_parallel(x, self.gate_proj, self.up_proj)
        return cast("Tensor", self.down_proj(F.silu(gate) * up))


class Block(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, config: ModelConfig, layer: int, tp: Group | None) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer, tp)
        self.mlp = MLP(config, tp)
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: AttentionCache | None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, cache)
        return cast("Tensor", x + self.mlp(self.post_attention_layernorm(x)))


class Decoder(nn.Module):
    """Embedding, blocks and final norm: tokens [B, S] to hidden states [B, S, D]."""

    def __init__(self, config: ModelConfig, tp: Group | None) -> None:
        super().__init__()
        self.embed_tokens = VocabParallelEmbedding(config.vocab_size, config.hidden_size, tp)
        self.layers = nn.ModuleList(Block(config, i, tp) for i in range(config.n_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.rotary = RotaryPositions(config)

    def forward(
        self, tokens: Tensor, cache: AttentionCache | None, positions: Tensor | None
    ) -> Tensor:
        x = self.embed_tokens(tokens)
        rotary = self.rotary(tokens.shape[1], positions)
        for block in self.layers:
            x = block(x, rotary, cache)
        return cast("Tensor", self.norm(x))


class Transformer(nn.Module):
    """A causal language model.

    Args:
        config: the whole model's shape.
        tp: the tensor-parallel group this rank's shard belongs to; None holds the whole model.
    """

    def __init__(self, config: ModelConfig, tp: Group | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config, tp)
        self.lm_head = ColumnParallelLinear(config.hidden_size, config.vocab_size, tp)
        if config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def hidden(
        self, tokens: Tensor, cache: AttentionCache | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Final hidden states [B, S, D] of tokens [B, S] (int64)."""
        return cast("Tensor", self.model(tokens, cache, positions))

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over this rank's part of the vocabulary, [..., V/tp]."""
        return cast("Tensor", self.lm_head(hidden))

    def forward(
        self, tokens: Tensor, cache: AttentionCache | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Logits [B, S, V/tp]."""
        return self.logits(self.hidden(tokens, cache, positions))
