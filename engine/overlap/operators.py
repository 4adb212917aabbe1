"""Products of which the communication is a part, each the other's backward pass.

Two layouts of activations between layers of a tensor-parallel group:

- *split*: each rank holds its part of the tokens, [M/R, K] (sequence parallelism: Korthikanti et
  al., "Reducing Activation Recomputation in Large Transformer Models", 2022). Columns are entered
  by gathering tokens, rows left by reducing and scattering them.
- *replicated*: every rank holds all tokens. Columns are entered for nothing, rows left by reducing
  (Megatron-LM's f and g: Shoeybi et al. 2019, section 3).

No tokens are a case like others: nothing is communicated then.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom

from engine.overlap.addend import Given, Product

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.overlap.transport import Gathering, Transport


class OverGroup(Protocol):
    """What operators need of a group.

    Attributes:
        keep_gathered: whether gathered tokens are kept for backward, or gathered again.
    """

    @property
    def transport(self) -> Transport: ...
    @property
    def keep_gathered(self) -> bool: ...


def all_gather_matmul(
    shard: Tensor, weights: Sequence[Tensor], group: OverGroup
) -> tuple[Tensor, ...]:
    """The tokens of all ranks times each weight [N_i, K] transposed.

    Args:
        shard: this rank's [M/R, K].

    Returns:
        Each [M, N_i].
    """
    if not shard.shape[0]:
        return tuple(F.linear(shard, weight) for weight in weights)
    made: tuple[Tensor, ...] = _AllGatherMatmul.apply(group, shard, *weights)  # type: ignore[no-untyped-call]
    return made


def matmul_reduce_scatter(x: Tensor, weight: Tensor, group: OverGroup) -> Tensor:
    """This rank's tokens [M/R, N] of the sum over ranks of ``x`` [M, K] ``weight`` [N, K]^T."""
    return matmuls_reduce_scatter([(x, weight)], group)


def matmuls_reduce_scatter(factors: Sequence[tuple[Tensor, Tensor]], group: OverGroup) -> Tensor:
    """The same of a sum of products, x_i [M, K_i] and w_i [N, K_i]."""
    if not factors[0][0].shape[0]:
        return _of_nothing(factors)
    made: Tensor = _MatmulReduceScatter.apply(group, *_flat(factors))  # type: ignore[no-untyped-call]
    return made


def matmul_all_reduce(x: Tensor, weight: Tensor, group: OverGroup) -> Tensor:
    """All tokens [M, N] of that sum over ranks, on every rank."""
    return matmuls_all_reduce([(x, weight)], group)


def matmuls_all_reduce(factors: Sequence[tuple[Tensor, Tensor]], group: OverGroup) -> Tensor:
    """The same of a sum of products."""
    if not factors[0][0].shape[0]:
        return _of_nothing(factors)
    made: Tensor = _MatmulAllReduce.apply(group, *_flat(factors))  # type: ignore[no-untyped-call]
    return made


def replicated_matmul(x: Tensor, weights: Sequence[Tensor], group: OverGroup) -> tuple[Tensor, ...]:
    """``x`` [M, K], which every rank holds, times each weight [N_i, K] transposed.

    The pair of :func:`matmul_all_reduce`: the gradient of ``x`` is summed over the ranks.
    """
    if not x.shape[0]:
        return tuple(F.linear(x, weight) for weight in weights)
    made: tuple[Tensor, ...] = _ReplicatedMatmul.apply(group, x, *weights)  # type: ignore[no-untyped-call]
    return made


def reduce_scatter(term: Tensor, group: OverGroup) -> Tensor:
    """This rank's tokens [M/R, N] of the sum over ranks of ``term`` [M, N]."""
    if not term.shape[0]:
        return term
    made: Tensor = _ReduceScatter.apply(term, group)  # type: ignore[no-untyped-call]
    return made


def all_reduce(term: Tensor, group: OverGroup) -> Tensor:
    """The sum over ranks of ``term`` [M, N], of which the gradient is the same on every rank."""
    if not term.shape[0]:
        return term
    made: Tensor = _AllReduce.apply(term, group)  # type: ignore[no-untyped-call]
    return made


class _AllGatherMatmul(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context
        group: OverGroup,
        shard: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        products, gathering = group.transport.all_gather_matmul(shard, weights)
        ctx.group = group
        kept = gathering.whole().clone() if group.keep_gathered else shard
        ctx.save_for_backward(kept, *weights)
        return tuple(products)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        group: OverGroup = ctx.group
        kept, *weights = ctx.saved_tensors
        gathering = None if group.keep_gathered else group.transport.gather(kept)
        of_weights: list[Tensor] = []

        def meanwhile() -> None:
            whole = kept if gathering is None else gathering.whole()
            of_weights.extend(grad.t() @ whole for grad in grads)

        return (None, _scattered(group, grads, weights, meanwhile), *of_weights)


def _scattered(group: OverGroup, grads: Any, weights: Any, meanwhile: Any) -> Tensor:  # noqa: ANN401
    product = Product(list(zip(grads, weights, strict=True)))
    return group.transport.reduce_scatter(product, meanwhile)


def _of_nothing(factors: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    return reduce(torch.add, (F.linear(x, weight) for x, weight in factors))


def _flat(factors: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [tensor for pair in factors for tensor in pair]


def _transposed(tensors: Sequence[Tensor]) -> Product:
    """Of x_0, w_0, x_1, w_1, ...: the sum of x_i times w_i transposed."""
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return Product([(x, weight.t()) for x, weight in pairs])


class _MatmulReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: OverGroup, *tensors: Tensor) -> Tensor:  # noqa: ANN401
        ctx.group = group
        ctx.save_for_backward(*tensors)
        return group.transport.reduce_scatter(_transposed(tensors))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        tensors = ctx.saved_tensors
        shard = grads[0].contiguous()
        weights = [weight.t() for weight in tensors[1::2]]
        of_xs, gathering = ctx.group.transport.all_gather_matmul(shard, weights)
        grad = gathering.whole().t()
        pairs = zip(of_xs, tensors[::2], strict=True)
        return None, *(each for of_x, x in pairs for each in (of_x, grad @ x))


class _MatmulAllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: OverGroup, *tensors: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(*tensors)
        return group.transport.all_reduce(_transposed(tensors))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        tensors, grad = ctx.saved_tensors, grads[0]
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        return None, *(each for x, weight in pairs for each in (grad @ weight, grad.t() @ x))


class _ReplicatedMatmul(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        group: OverGroup,
        x: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.group = group
        ctx.save_for_backward(x, *weights)
        return tuple(x @ weight.t() for weight in weights)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, *weights = ctx.saved_tensors
        total = ctx.group.transport.all_reduce(Product(list(zip(grads, weights, strict=True))))
        return (None, total, *(grad.t() @ x for grad in grads))


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, term: Tensor, group: OverGroup) -> Tensor:  # noqa: ANN401
        ctx.group = group
        return group.transport.reduce_scatter(Given(term))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:  # noqa: ANN401
        gathering: Gathering = ctx.group.transport.gather(grads[0].contiguous())
        return gathering.whole().clone(), None


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, term: Tensor, group: OverGroup) -> Tensor:  # noqa: ANN401
        return group.transport.all_reduce(Given(term))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:  # noqa: ANN401
        return grads[0], None
