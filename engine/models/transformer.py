"""The decoder. Module names are Hugging Face's Llama names, so a state dict needs no mapping.

Shapes: B sequences, S tokens each, D hidden, Hq/Hkv query and key-value heads of this rank, Dh
head width, V vocabulary. Under tensor parallelism every rank holds Hq/tp heads, and V/tp logits;
T tokens lie between the layers of a rank: B S, or B S / tp where they are split over the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from engine.models.attention import causal_attention
from engine.models.loss import next_token_loss
from engine.models.operations import TORCH, Operations
from engine.models.partition import Part, whole
from engine.models.sharding import mark_partial
from engine.overlap.linear import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    column_parallel,
    row_parallel,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.models.config import ModelConfig
    from engine.overlap.tensor_parallel import TensorParallelGroup


class AttentionCache(Protocol):
    """Keys and values of earlier tokens, and attention over them."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the new k, v [B, Hkv, S, Dh] and attend with q [B, Hq, S, Dh] to all so far."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What all layers of one pass through the model have in common.

    Attributes:
        shape: (B, S).
        rotary: cosines and sines of the tokens' positions.
        cache: of earlier tokens; None: the sequences begin here.
        split: whether each rank of the tensor-parallel group holds its part of the tokens.
    """

    shape: tuple[int, int]
    rotary: tuple[Tensor, Tensor]
    cache: AttentionCache | None
    split: bool


class RMSNorm(nn.Module):
    """Root-mean-square normalisation of the last dimension."""

    def __init__(self, size: int, eps: float, by: Operations) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return self.by.rms_norm(x, self.weight, self.eps)


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


class Attention(nn.Module):
    """Grouped-query causal self-attention; heads are split over the tensor-parallel group."""

    def __init__(
        self, config: ModelConfig, layer: int, tp: TensorParallelGroup | None, by: Operations
    ) -> None:
        super().__init__()
        self.layer = layer
        self.by = by
        self.head_dim = config.head_dim
        self.window = config.window
        width, bias = config.hidden_size, config.qkv_bias
        self.q_proj = ColumnParallelLinear(width, config.query_size, tp, bias=bias)
        self.k_proj = ColumnParallelLinear(width, config.kv_size, tp, bias=bias)
        self.v_proj = ColumnParallelLinear(width, config.kv_size, tp, bias=bias)
        self.o_proj = RowParallelLinear(config.query_size, width, tp)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps, by)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps, by)
            for norm in (self.q_norm, self.k_norm):
                mark_partial(norm.weight)
        self.normalized = config.qk_norm

    @property
    def inputs(self) -> tuple[ColumnParallelLinear, ...]:
        """What is made of a layer's input: queries, keys, values."""
        return self.q_proj, self.k_proj, self.v_proj

    def attend(self, made: Sequence[Tensor], this: Pass) -> Tensor:
        """``inputs``' products, each [B S, ...], to this rank's heads [B S, Hq Dh]."""
        q, k, v = (each.view(*this.shape, -1, self.head_dim).transpose(1, 2) for each in made)
        if self.normalized:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = self.by.rotate(q, *this.rotary), self.by.rotate(k, *this.rotary)
        if this.cache is None:
            out = causal_attention(q, k, v, window=self.window)
        else:
            out = this.cache.attend(self.layer, q, k, v)
        return out.transpose(1, 2).flatten(2).flatten(0, 1)


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, tp: TensorParallelGroup | None, by: Operations) -> None:
        super().__init__()
        self.by = by
        self.gate_proj = ColumnParallelLinear(config.hidden_size, config.intermediate_size, tp)
        self.up_proj = ColumnParallelLinear(config.hidden_size, config.intermediate_size, tp)
        self.down_proj = RowParallelLinear(config.intermediate_size, config.hidden_size, tp)

    @property
    def inputs(self) -> tuple[ColumnParallelLinear, ...]:
        """What is made of a layer's input: gates, and what they let through."""
        return self.gate_proj, self.up_proj

    def gated(self, made: Sequence[Tensor]) -> Tensor:
        """``inputs``' products to what :attr:`down_proj` takes."""
        gate, up = made
        return self.by.gated(gate, up)


class Block(nn.Module):
    """One pre-norm decoder layer: attention, then the MLP."""

    def __init__(
        self, config: ModelConfig, layer: int, tp: TensorParallelGroup | None, by: Operations
    ) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer, tp, by)
        self.mlp = MLP(config, tp, by)
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps, by)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps, by)

    def forward(self, x: Tensor, this: Pass) -> Tensor:
        made = column_parallel(self.input_layernorm(x), *self.self_attn.inputs, split=this.split)
        x = x + self.self_attn.o_proj(self.self_attn.attend(made, this), split=this.split)
        made = column_parallel(self.post_attention_layernorm(x), *self.mlp.inputs, split=this.split)
        return cast("Tensor", x + self.mlp.down_proj(self.mlp.gated(made), split=this.split))


class ParallelBlock(nn.Module):
    """Attention and MLP side by side: ``x + MLP(LN(x)) + Attention(LN(x))`` (MegaScale, 3.1).

    Tokens are gathered once and reduced once, where :class:`Block` does each twice.
    """

    def __init__(
        self, config: ModelConfig, layer: int, tp: TensorParallelGroup | None, by: Operations
    ) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer, tp, by)
        self.mlp = MLP(config, tp, by)
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps, by)

    def forward(self, x: Tensor, this: Pass) -> Tensor:
        attention, mlp = self.self_attn, self.mlp
        layers = (*attention.inputs, *mlp.inputs)
        made = column_parallel(self.input_layernorm(x), *layers, split=this.split)
        split_at = len(attention.inputs)
        heads, gated = attention.attend(made[:split_at], this), mlp.gated(made[split_at:])
        return x + row_parallel((heads, attention.o_proj), (gated, mlp.down_proj), split=this.split)


class Decoder(nn.Module):
    """Embedding, blocks and final norm: tokens [B, S] to hidden states [T, D].

    One part of it takes the hidden states of the part before instead, and gives them to the next.
    Its layers are called by their numbers in the whole model.
    """

    def __init__(
        self, config: ModelConfig, tp: TensorParallelGroup | None, part: Part, by: Operations
    ) -> None:
        super().__init__()
        self.part = part
        if part.first:
            self.embed_tokens = VocabParallelEmbedding(config.vocab_size, config.hidden_size, tp)
        kind = ParallelBlock if config.parallel_block else Block
        self.layers = nn.ModuleDict({str(i): kind(config, i, tp, by) for i in part.layers})
        if part.last:
            self.norm = RMSNorm(config.hidden_size, config.norm_eps, by)
        self.rotary = RotaryPositions(config)

    def forward(self, x: Tensor, this: Pass) -> Tensor:
        if self.part.first:
            x = self.embed_tokens(x.flatten(), split=this.split)
        for block in self.layers.values():
            x = block(x, this)
        return self.norm(x) if self.part.last else x


class Transformer(nn.Module):
    """A causal language model, or one part of it.

    Args:
        config: the whole model's shape.
        tp: the tensor-parallel group this rank's shard belongs to; None holds the whole model.
        split: whether tokens between layers are split over ``tp`` where their number allows it
            (sequence parallelism).
        part: what of the model this is; None: all of it.
        by: who does what is neither product nor attention.
    """

    def __init__(
        self,
        config: ModelConfig,
        tp: TensorParallelGroup | None = None,
        *,
        split: bool = False,
        part: Part | None = None,
        by: Operations = TORCH,
    ) -> None:
        super().__init__()
        self.config = config
        self.part = part or whole(config.n_layers)
        self.model = Decoder(config, tp, self.part, by)
        if self.part.last:
            self.lm_head = ColumnParallelLinear(config.hidden_size, config.vocab_size, tp)
            if config.tie_embeddings and self.part.first:
                self.lm_head.weight = self.model.embed_tokens.weight
        self.split = split
        self.tp = tp
        self.by = by

    @property
    def blocks(self) -> list[nn.Module]:
        """Its layers, in order."""
        return list(self.model.layers.values())

    def splits(self, n_tokens: int) -> bool:
        """Whether a pass over so many tokens splits them: then the gradients of weights that every
        rank holds whole are sums over its own tokens only."""
        ranks = self.tp.size if self.tp is not None else 1
        return self.split and ranks > 1 and n_tokens % ranks == 0

    def hidden(
        self, tokens: Tensor, cache: AttentionCache | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Final hidden states [B, S, D] of tokens [B, S] (int64), which are not split."""
        shape = (tokens.shape[0], tokens.shape[1])
        return self.advance(tokens, cache, positions, shape).view(*shape, -1)

    def advance(
        self,
        x: Tensor,
        cache: AttentionCache | None,
        positions: Tensor | None,
        shape: tuple[int, int],
    ) -> Tensor:
        """Hidden states [B S, D] of tokens [B, S], or of those of the part before; not split."""
        hidden: Tensor = self.model(x, self._pass(shape, cache, positions, split=False))
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over this rank's part of the vocabulary, [..., V/tp]."""
        scores: Tensor = self.lm_head(hidden.flatten(0, -2))
        return scores.view(*hidden.shape[:-1], scores.shape[-1])

    def forward(
        self,
        x: Tensor,
        targets: Tensor | None = None,
        *,
        shape: tuple[int, int] | None = None,
    ) -> Tensor:
        """What the part of the model makes of its input.

        Args:
            x: tokens [B, S] (int64); for a part that is not the first, hidden states [T, D].
            targets: [B, S], the tokens that follow.
            shape: (B, S), where x is hidden states.

        Returns:
            Hidden states [T, D] of a part that is not the last. Of the last: the mean loss of
            ``targets``, or without them logits [B, S, V/tp].
        """
        shape = shape or (x.shape[0], x.shape[1])
        this = self._pass(shape, None, None, split=self.splits(shape[0] * shape[1]))
        hidden: Tensor = self.model(x, this)
        if not self.part.last:
            return hidden
        if targets is not None:
            return next_token_loss(
                hidden, self.lm_head, targets.flatten(), split=this.split, by=self.by
            )
        scores: Tensor = self.lm_head(hidden, split=this.split)
        return scores.view(*shape, -1)

    def _pass(
        self,
        shape: tuple[int, int],
        cache: AttentionCache | None,
        positions: Tensor | None,
        *,
        split: bool,
    ) -> Pass:
        rotary = self.model.rotary(shape[1], positions)
        return Pass(shape=shape, rotary=rotary, cache=cache, split=split)
