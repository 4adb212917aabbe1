"""Attention and MLP side by side, against the formula written out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

import torch.nn.functional as F  # noqa: E402, N812

from engine.models.config import ModelConfig  # noqa: E402
from engine.models.initialization import initialize  # noqa: E402
from engine.models.operations import rotate  # noqa: E402
from engine.models.transformer import Transformer  # noqa: E402

CONFIG = ModelConfig(
    vocab_size=300,
    hidden_size=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    intermediate_size=48,
    max_seq_len=64,
    window=5,
    parallel_block=True,
)

if TYPE_CHECKING:
    from torch import Tensor


def written_out(model: Transformer, tokens: Tensor) -> Tensor:
    """y = x + MLP(LN(x)) + Attention(LN(x)), in float64."""
    weights = {name: each.detach().double() for name, each in model.named_parameters()}
    x = weights["model.embed_tokens.weight"][tokens]
    length = tokens.shape[1]
    cos, sin = (each.double() for each in model.model.rotary(length, None))
    back = torch.arange(length)[:, None] - torch.arange(length)
    seen = (back >= 0) & (back < CONFIG.window)
    for layer in range(CONFIG.n_layers):
        of = {
            name.removeprefix(f"model.layers.{layer}."): each
            for name, each in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        assert "post_attention_layernorm.weight" not in of
        h = x * (x.square().mean(-1, keepdim=True) + CONFIG.norm_eps).rsqrt()
        h = h * of["input_layernorm.weight"]
        q, k, v = (
            (h @ of[f"self_attn.{name}_proj.weight"].t()).view(*tokens.shape, -1, CONFIG.head_dim)
            for name in "qkv"
        )
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (each.repeat_interleave(2, 1) for each in (k, v))
        scores = (q @ k.transpose(-1, -2)) / CONFIG.head_dim**0.5
        heads = scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v
        attention = heads.transpose(1, 2).flatten(2) @ of["self_attn.o_proj.weight"].t()
        gate, up = (h @ of[f"mlp.{name}_proj.weight"].t() for name in ("gate", "up"))
        x = x + (F.silu(gate) * up) @ of["mlp.down_proj.weight"].t() + attention
    x = x * (x.square().mean(-1, keepdim=True) + CONFIG.norm_eps).rsqrt()
    return x * weights["model.norm.weight"] @ weights["lm_head.weight"].t()


def test_it_is_the_formula() -> None:
    torch.manual_seed(2)
    model = Transformer(CONFIG)
    initialize(model, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.mul_(10)  # so that attention is far from even
        tokens = torch.randint(0, 300, (2, 21))
        logits, exact = model(tokens), written_out(model, tokens)
    assert float((logits - exact).abs().max() / exact.abs().max()) < 1e-5
