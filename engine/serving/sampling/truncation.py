"""Drawing from all tokens, or from the most likely ones only.

Each row's draw alone decides, by the inverse of its distribution's sum: a row's token does not
depend on what else is in the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.serving.sampling.parameters import SamplingParameters

_FEW = 128  # most likely tokens that nearly always hold what is kept: sorting all costs ten times


def drawn(logits: Tensor, parameters: Sequence[SamplingParameters], draws: Tensor) -> Tensor:
    """Tokens [B] of finite scores [B, V].

    Args:
        draws: uniform numbers in [0, 1), [B] (float64).
    """
    temperatures = _column([each.temperature for each in parameters], logits)
    scaled = (logits.double() - logits.max(dim=-1, keepdim=True).values) / temperatures
    mass = scaled.exp_()  # the most likely token of each row has 1
    tokens = torch.empty(len(parameters), dtype=torch.long, device=logits.device)
    for rows, choose in zip(_kinds(parameters), (_from_all, _from_most_likely), strict=True):
        if rows:
            index = torch.tensor(rows, device=logits.device)
            some = [parameters[row] for row in rows]
            tokens[index] = choose(mass[index], some, draws[index][:, None])
    return tokens


def _kinds(parameters: Sequence[SamplingParameters]) -> tuple[list[int], list[int]]:
    """Rows that need no order of tokens, and those that do."""
    kinds: tuple[list[int], list[int]] = ([], [])
    for row, each in enumerate(parameters):
        kinds[each.top_p < 1 or each.top_k > 0].append(row)
    return kinds


def _from_all(mass: Tensor, parameters: Sequence[SamplingParameters], draws: Tensor) -> Tensor:
    return _invert(_likely_enough(mass, parameters).cumsum(dim=-1), draws)


def _from_most_likely(
    mass: Tensor, parameters: Sequence[SamplingParameters], draws: Tensor
) -> Tensor:
    """First of a few; rows that these do not suffice for are ordered whole."""
    mass = _likely_enough(mass, parameters)
    size = mass.shape[-1]
    few = min(size, _FEW)
    tokens, sure = _truncated(mass, few, parameters, draws)
    if few < size and not bool(sure.all()):
        rows = (~sure).nonzero()[:, 0]
        some = [parameters[row] for row in rows.tolist()]
        tokens[rows] = _truncated(mass[rows], size, some, draws[rows])[0]
    return tokens


def _truncated(
    mass: Tensor, few: int, parameters: Sequence[SamplingParameters], draws: Tensor
) -> tuple[Tensor, Tensor]:
    """top_k, then top_p of what is left, as in transformers; the most likely token always stays.

    Returns:
        Tokens [B], and whether the ``few`` most likely ones were enough to know [B].
    """
    size = mass.shape[-1]
    ordered, tokens = _most_likely(mass, few)
    kept = _column([each.top_k or size for each in parameters], mass)
    ordered = ordered * (torch.arange(few, device=mass.device) < kept)
    summed = ordered.cumsum(dim=-1)
    held = kept <= few
    whole = torch.where(held, summed[:, -1:], mass.sum(dim=-1, keepdim=True))
    enough = _column([each.top_p for each in parameters], mass) * whole
    sure = (held | ((kept >= size) & (summed[:, -1:] >= enough)))[:, 0]
    beyond = summed - ordered >= enough
    beyond[:, 0] = False
    places = _invert(ordered.masked_fill(beyond, 0).cumsum(dim=-1), draws)
    return tokens.gather(-1, places[:, None])[:, 0], sure


def _most_likely(mass: Tensor, few: int) -> tuple[Tensor, Tensor]:
    """In falling order; of equals the first token first, so that ties too are settled alike."""
    if few == mass.shape[-1]:
        ordered, tokens = mass.sort(dim=-1, descending=True, stable=True)
        return ordered, tokens
    chosen = mass.topk(few, dim=-1, sorted=False).indices.sort(dim=-1).values
    ordered, order = mass.gather(-1, chosen).sort(dim=-1, descending=True, stable=True)
    return ordered, chosen.gather(-1, order)


def _likely_enough(mass: Tensor, parameters: Sequence[SamplingParameters]) -> Tensor:
    """Without the tokens that ``min_p`` leaves out."""
    if not any(each.min_p for each in parameters):
        return mass
    return mass.masked_fill(mass < _column([each.min_p for each in parameters], mass), 0)


def _invert(summed: Tensor, draws: Tensor) -> Tensor:
    """First place of each row whose sum exceeds the draw's share of the total."""
    places = torch.searchsorted(summed, draws * summed[:, -1:], right=True)[:, 0]
    return places.clamp_(max=summed.shape[-1] - 1)


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers, device=like.device, dtype=torch.float64)[:, None]
