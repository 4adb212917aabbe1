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
    from collections.abc import Sequence

    from engine.models.transformer import Block, ParallelBlock, Transformer
    from engine.overlap.linear import ColumnParallelLinear, RowParallelLinear
    from engine.serving.paged.attention import BatchAttention


class Network(Protocol):
    """A model that gives scores, or one part of it in a pipeline."""

    def advance(self, x: Tensor, attention: BatchAttention) -> Tensor:
        """Through all layers that are here.

        Args:
            x: tokens [N]; for a part that is not the first, hidden states [N, D].

        Returns:
            Scores where ``attention`` says, [rows that give, V] (on every rank of a tensor-parallel
            group); of a part that is not the last, hidden states [N, D].
        """
        ...


def network(model: Transformer) -> Network:
    """The quickest way to run a model; the model itself stays as it was."""
    sharded = model.tp is not None and model.tp.size > 1
    return ShardedNetwork(model) if sharded else PackedNetwork(model)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One block's weights: what has the same input is one matrix, [inputs, outputs].

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
    """Of whole layers. The model's parameters become views of the packed weights, so that nothing
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
            self._head = _head(model) if model.part.last else None
            self._cos = model.model.rotary.cos
            self._sin = model.model.rotary.sin.clone()
            self._sin[:, : self._width // 2].neg_()

    def advance(self, x: Tensor, attention: BatchAttention) -> Tensor:
        """See :class:`Network`."""
        part = self._model.part
        if part.first:
            x = F.embedding(x, self._model.model.embed_tokens.weight)
        places = attention.positions
        rotary = self._cos[places].unsqueeze(1), self._sin[places].unsqueeze(1)
        for number, layer in enumerate(self._layers):
            normed = self._norm(x, layer.before)
            q = self._queries(number, layer, normed, rotary, attention)
            if number < len(self._layers) - 1 or not part.last:
                heads = attention.attend(number, q)
            else:
                if (rows := attention.giving) is not None:
                    x, normed, q = x[rows], normed[rows], q[rows]
                heads = attention.attend_last(number, q)
            x = self._rest(layer, x, normed, heads)
        if self._head is None:
            return x
        return self._norm(x, self._model.model.norm.weight).mm(self._head)

    def _queries(
        self,
        number: int,
        layer: _Layer,
        normed: Tensor,
        rotary: tuple[Tensor, Tensor],
        attention: BatchAttention,
    ) -> Tensor:
        """Store keys and values; queries [N, Hq, Dh]."""
        if layer.bias is None:
            made = normed.mm(layer.qkv)
        else:
            made = torch.addmm(layer.bias, normed, layer.qkv)
        made = made.view(normed.shape[0], -1, self._width)
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
        x = torch.addmm(x, heads, layer.output)
        if layer.between is not None:
            normed = self._norm(x, layer.between)
        gate, up = normed.mm(layer.gate_up).chunk(2, dim=-1)
        return torch.addmm(x, F.silu(gate).mul_(up), layer.down)

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

    def advance(self, x: Tensor, attention: BatchAttention) -> Tensor:
        """See :class:`Network`."""
        part = self._model.part
        shape = (1, x.shape[0])
        flat = _Flat(attention, part.layers.start)
        hidden = self._model.advance(
            x[None] if part.first else x, flat, attention.positions[None], shape
        )
        if not part.last:
            return hidden
        if attention.giving is not None:
            hidden = hidden[attention.giving]
        if not len(hidden):  # of all ranks alike: nothing is gathered
            return hidden.new_empty(0, self._model.config.vocab_size)
        return torch.cat(self._tp.all_gather(self._model.logits(hidden)), dim=-1)


class _Flat:
    """A batch's attention as the training engine's model asks for it, with N tokens for a sequence.

    Args:
        first: number of the first layer that is here.
    """

    def __init__(self, attention: BatchAttention, first: int) -> None:
        self._attention = attention
        self._first = first

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Shapes: q [1, Hq, N, Dh], k and v [1, Hkv, N, Dh]; returns [1, Hq, N, Dh]."""
        self._attention.store(layer - self._first, k[0].transpose(0, 1), v[0].transpose(0, 1))
        out = self._attention.attend(layer - self._first, q[0].transpose(0, 1))
        return out.view(q.shape[2], q.shape[1], q.shape[3]).transpose(0, 1).unsqueeze(0)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + Dh/2) of x [N, H, Dh] by tables [N, 1, Dh]; of ``sin`` the first half
    is negative."""
    swapped = x.roll(x.shape[-1] // 2, -1)
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
        output=_joined((attention.o_proj,)),
        between=between.weight if between is not None else None,
        gate_up=_joined(mlp.inputs),
        down=_joined((mlp.down_proj,)),
    )


def _head(model: Transformer) -> Tensor:
    """One that is the embedding, too, stays as it is: of that, rows are read."""
    if model.part.first and model.lm_head.weight is model.model.embed_tokens.weight:
        return model.lm_head.weight.t()
    return _joined((model.lm_head,))


def _joined(layers: Sequence[ColumnParallelLinear | RowParallelLinear]) -> Tensor:
    """One matrix [inputs, outputs], of which their weights become views.

    A CPU has it contiguous: products of 1 to 32 rows with weights that its caches hold are up to
    twice as fast. Of a whole model of 256 x 4 that is little: 2 % more tokens a second of 16
    requests, 7 % of one.
    """
    weights: list[Tensor] = [layer.weight for layer in layers]
    whole = torch.cat(weights) if len(weights) > 1 else weights[0]
    matrix = whole.t() if whole.is_cuda else whole.t().contiguous()
    sizes = [weight.shape[0] for weight in weights]
    for layer, part in zip(layers, torch.split(matrix, sizes, dim=1), strict=True):
        layer.weight.data = part.t()
    return matrix


def _joined_bias(layers: tuple[ColumnParallelLinear, ...]) -> Tensor | None:
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    return torch.cat(biases) if biases else None
