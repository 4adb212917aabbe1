"""The model as inference runs it: tokens of many sequences flat, one behind another.

N tokens, D hidden, Hq and Hkv query and key heads, Dh a head's width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor

if TYPE_CHECKING:
    from engine.models.transformer import Block, ParallelBlock, Transformer
    from engine.overlap.linear import ColumnParallelLinear
    from engine.serving.paged.attention import MixedAttention


class Network(Protocol):
    """A model that gives scores."""

    def scores(self, tokens: Tensor, attention: MixedAttention) -> Tensor:
        """Of tokens [N], where ``attention`` says: [rows that give, V]."""
        ...


def network(model: Transformer) -> Network:
    """The quickest way to run a model; the model itself stays as it was."""
    sharded = model.tp is not None and model.tp.size > 1
    return ShardedNetwork(model) if sharded else PackedNetwork(model)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One block's weights: what has the same input is one matrix.

    Attributes:
        between: the norm before the MLP; None: the MLP stands beside attention.
    """

    before: Tensor
    qkv: Tensor
    bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: Tensor
    between: Tensor | None
    gate_up: Tensor
    down: Tensor


class PackedNetwork:
    """Of a whole model. The model's parameters become views of the packed weights, so that nothing
    is in memory twice.

    Of the last layer only keys and values are computed for rows whose scores nobody wants.
    """

    def __init__(self, model: Transformer) -> None:
        config = model.config
        self._model = model
        self._eps = config.norm_eps
        self._width = config.head_dim
        self._heads = (config.n_heads, config.n_kv_heads)
        with torch.no_grad():
            self._layers = [_packed(cast("Block", block)) for block in model.blocks]
            self._cos = model.model.rotary.cos
            self._sin = model.model.rotary.sin.clone()
            self._sin[:, : self._width // 2].neg_()

    def scores(self, tokens: Tensor, attention: MixedAttention) -> Tensor:
        """Of tokens [N], where ``attention`` says: [rows that give, V]."""
        x = F.embedding(tokens, self._model.model.embed_tokens.weight)
        places = attention.positions
        rotary = self._cos[places].unsqueeze(1), self._sin[places].unsqueeze(1)
        for number, layer in enumerate(self._layers):
            normed = self._norm(x, layer.before)
            q = self._queries(number, layer, normed, rotary, attention)
            if number < len(self._layers) - 1:
                heads = attention.attend(number, q)
            else:
                if (rows := attention.giving) is not None:
                    x, normed, q = x[rows], normed[rows], q[rows]
                heads = attention.attend_last(number, q)
            x = self._rest(layer, x, normed, heads)
        return F.linear(self._norm(x, self._model.model.norm.weight), self._model.lm_head.weight)

    def _queries(
        self,
        number: int,
        layer: _Layer,
        normed: Tensor,
        rotary: tuple[Tensor, Tensor],
        attention: MixedAttention,
    ) -> Tensor:
        """Store keys and values; queries [N, Hq, Dh]."""
        made = F.linear(normed, layer.qkv, layer.bias).view(normed.shape[0], -1, self._width)
        queries, keys = self._heads
        turning, v = made[:, : queries + keys], made[:, queries + keys :]
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = torch.split(turning, list(self._heads), dim=1)
            turning = torch.cat((self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)), dim=1)
        turned = _rotated(turning, *rotary)
        attention.store(number, turned[:, queries:], v)
        return turned[:, :queries]

    def _rest(self, layer: _Layer, x: Tensor, normed: Tensor, heads: Tensor) -> Tensor:
        """Attention's output and the MLP, added to x [n, D]."""
        x = torch.addmm(x, heads, layer.output.t())
        if layer.between is not None:
            normed = self._norm(x, layer.between)
        gate, up = F.linear(normed, layer.gate_up).chunk(2, dim=-1)
        return torch.addmm(x, F.silu(gate).mul_(up), layer.down.t())

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """On a CPU by hand, which takes two thirds of the time of torch's own."""
        if x.is_cuda:
            return self._model.by.rms_norm(x, weight, self._eps)
        scale = x.square().mean(-1, keepdim=True).add_(self._eps).rsqrt_()
        return (x * scale).mul_(weight)


class ShardedNetwork:
    """Of one rank of a tensor-parallel group, all of which run the same batches."""

    def __init__(self, model: Transformer) -> None:
        assert model.tp is not None, "of a group"
        self._model, self._tp = model, model.tp

    def scores(self, tokens: Tensor, attention: MixedAttention) -> Tensor:
        """Of tokens [N], where ``attention`` says: [rows that give, V] on every rank."""
        positions = attention.positions[None]
        hidden = self._model.hidden(tokens[None], _Flat(attention), positions)[0]
        if attention.giving is not None:
            hidden = hidden[attention.giving]
        part = self._model.logits(hidden)
        return torch.cat(self._tp.all_gather(part), dim=-1)


class _Flat:
    """Mixed attention as the training engine's model asks for it, with N tokens for a sequence."""

    def __init__(self, attention: MixedAttention) -> None:
        self._attention = attention

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Shapes: q [1, Hq, N, Dh], k and v [1, Hkv, N, Dh]; returns [1, Hq, N, Dh]."""
        self._attention.store(layer, k[0].transpose(0, 1), v[0].transpose(0, 1))
        out = self._attention.attend(layer, q[0].transpose(0, 1))
        return out.view(q.shape[2], q.shape[1], q.shape[3]).transpose(0, 1).unsqueeze(0)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + Dh/2) of x [N, H, Dh] by tables [N, 1, Dh]; of ``sin`` the first half
    is negative."""
    tokens, heads, width = x.shape
    swapped = x.reshape(tokens, heads, 2, width // 2).flip(2).view(tokens, heads, width)
    return (x * cos).addcmul_(swapped, sin).to(x.dtype)


def _packed(block: Block | ParallelBlock) -> _Layer:
    attention, mlp = block.self_attn, block.mlp
    between = getattr(block, "post_attention_layernorm", None)
    return _Layer(
        before=block.input_layernorm.weight,
        qkv=_joined(attention.inputs),
        bias=_joined_bias(attention.inputs),
        q_norm=attention.q_norm.weight if attention.normalized else None,
        k_norm=attention.k_norm.weight if attention.normalized else None,
        output=attention.o_proj.weight,
        between=between.weight if between is not None else None,
        gate_up=_joined(mlp.inputs),
        down=mlp.down_proj.weight,
    )


def _joined(layers: tuple[ColumnParallelLinear, ...]) -> Tensor:
    """One weight, of which theirs become views."""
    whole = torch.cat([layer.weight for layer in layers])
    sizes = [layer.weight.shape[0] for layer in layers]
    for layer, part in zip(layers, torch.split(whole, sizes), strict=True):
        layer.weight.data = part
    return whole


def _joined_bias(layers: tuple[ColumnParallelLinear, ...]) -> Tensor | None:
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    return torch.cat(biases) if biases else None
