"""What changes scores before any token is drawn: biases, and the text so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.serving.sampling.parameters import Candidate


def adjusted(logits: Tensor, candidates: Sequence[Candidate]) -> Tensor:
    """Scores [B, V] with biases and penalties; the same tensor where there are none."""
    biased = [row for row, each in enumerate(candidates) if each.parameters.logit_bias]
    penalized = [row for row, each in enumerate(candidates) if each.parameters.penalizes]
    if not biased and not penalized:
        return logits
    logits = logits.clone()
    if biased:
        _add_biases(logits, candidates, biased)
    if penalized:
        index = torch.tensor(penalized, device=logits.device)
        some = [candidates[row] for row in penalized]
        logits[index] = _penalized(logits[index], some)
    return logits


def _add_biases(logits: Tensor, candidates: Sequence[Candidate], rows: Sequence[int]) -> None:
    told = [
        (row, token, bias)
        for row in rows
        for token, bias in candidates[row].parameters.logit_bias.items()
    ]
    at_row, tokens, biases = zip(*told, strict=True)
    device = logits.device
    places = (torch.tensor(at_row, device=device), torch.tensor(tokens, device=device))
    values = torch.tensor(biases, device=device, dtype=logits.dtype)
    logits.index_put_(places, values, accumulate=True)


def _penalized(logits: Tensor, candidates: Sequence[Candidate]) -> Tensor:
    """First repetition, then frequency and presence, as in vLLM."""
    ours = [each.parameters for each in candidates]
    given = _counts([each.output for each in candidates], logits)
    seen = (_counts([each.prompt for each in candidates], logits) + given) > 0
    factor = _column([each.repetition_penalty for each in ours], logits)
    repeated = torch.where(logits > 0, logits / factor, logits * factor)
    logits = torch.where(seen, repeated, logits)
    logits = logits - given * _column([each.frequency_penalty for each in ours], logits)
    return logits - (given > 0) * _column([each.presence_penalty for each in ours], logits)


def _counts(texts: Sequence[Sequence[int]], logits: Tensor) -> Tensor:
    """How often each text has each token, [B, V]."""
    counts = torch.zeros_like(logits)
    for row, text in enumerate(texts):
        tokens = torch.tensor(list(text), device=logits.device, dtype=torch.long)
        counts[row].scatter_add_(0, tokens, torch.ones_like(tokens, dtype=logits.dtype))
    return counts


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers, device=like.device, dtype=like.dtype)[:, None]
