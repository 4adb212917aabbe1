"""Choosing the next tokens of a whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.serving.request import Sampling

_GREEDY_BELOW = 1e-5  # dividing by less would only overflow


def sample(logits: Tensor, parameters: Sequence[Sampling], draws: Sequence[float]) -> list[int]:
    """Choose one token for each row of logits [B, V].

    Args:
        draws: one uniform number in [0, 1) a row; it alone decides, so a row's token does not
            depend on what else is in the batch.

    Returns:
        B token ids; -1 for a row whose scores are not finite.
    """
    best, tokens = logits.max(dim=-1)
    tokens = torch.where(best.isfinite(), tokens, -1)
    whole: list[int] = []
    truncated: list[int] = []
    for row, wanted in enumerate(parameters):
        if wanted.temperature >= _GREEDY_BELOW:
            (truncated if wanted.top_p < 1 or wanted.top_k else whole).append(row)
    for rows, choose in ((whole, _from_all), (truncated, _from_most_likely)):
        if rows:
            index = torch.tensor(rows, device=logits.device)
            chosen = choose(
                _probabilities(logits[index], best[index], [parameters[row] for row in rows]),
                [parameters[row] for row in rows],
                _column([draws[row] for row in rows], logits.device),
            )
            tokens[index] = torch.where(tokens[index] < 0, tokens[index], chosen)
    found: list[int] = tokens.tolist()
    return found


def _probabilities(logits: Tensor, best: Tensor, parameters: Sequence[Sampling]) -> Tensor:
    """Unnormalised: the most likely token of each row has 1."""
    temperatures = _column([p.temperature for p in parameters], logits.device)
    return ((logits.double() - best[:, None]) / temperatures).exp()


def _from_all(mass: Tensor, parameters: Sequence[Sampling], draws: Tensor) -> Tensor:
    return _invert(mass.cumsum(dim=-1), draws)


def _from_most_likely(mass: Tensor, parameters: Sequence[Sampling], draws: Tensor) -> Tensor:
    """top_k, then top_p of what is left, as in transformers; the most likely token always stays."""
    ordered, tokens = mass.sort(dim=-1, descending=True, stable=True)
    vocabulary = mass.shape[-1]
    kept = _column([min(p.top_k or vocabulary, vocabulary) for p in parameters], mass.device)
    ordered = ordered.masked_fill(torch.arange(vocabulary, device=mass.device) >= kept, 0)
    before = ordered.cumsum(dim=-1) - ordered
    enough = _column([p.top_p for p in parameters], mass.device) * ordered.sum(-1, keepdim=True)
    beyond = before >= enough
    beyond[:, 0] = False
    places = _invert(ordered.masked_fill(beyond, 0).cumsum(dim=-1), draws)
    return tokens.gather(-1, places[:, None])[:, 0]


def _invert(cumulated: Tensor, draws: Tensor) -> Tensor:
    """First place of each row whose cumulated mass exceeds the draw's share of the total."""
    places = torch.searchsorted(cumulated, draws * cumulated[:, -1:], right=True)[:, 0]
    return places.clamp_(max=cumulated.shape[-1] - 1)


def _column(numbers: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(numbers, device=device, dtype=torch.float64)[:, None]
