"""Choosing the next tokens of a whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import torch

from engine.serving.sampling.draw import draw
from engine.serving.sampling.penalties import adjusted
from engine.serving.sampling.truncation import drawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.serving.sampling.parameters import Candidate

NO_TOKEN = -1


class Chosen(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A sequence's next token.

    Attributes:
        token: -1 where its scores are not finite.
        logprob: natural logarithm of its probability by the model's own scores, before any
            parameter acts; None if it was not asked for.
        likeliest: tokens and logprobs of the most likely ones, in falling order.
    """

    token: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


@torch.inference_mode()
def choose(logits: Tensor, candidates: Sequence[Candidate]) -> list[Chosen]:
    """One token for each row of logits [B, V]; each row by itself."""
    logits = logits.float()
    scores = adjusted(logits, candidates)
    best, tokens = scores.max(dim=-1)
    sound = best.isfinite()
    if scores is not logits:
        sound &= logits.max(dim=-1).values.isfinite()
    lively = [row for row, each in enumerate(candidates) if not each.parameters.greedy]
    if lively:
        index = torch.tensor(lively, device=logits.device)
        some = [candidates[row] for row in lively]
        draws = [draw(each.parameters.seed, len(each.output)) for each in some]
        rows = scores[index].masked_fill(~sound[index][:, None], 0)
        decided = torch.tensor(draws, device=logits.device, dtype=torch.float64)
        tokens[index] = drawn(rows, [each.parameters for each in some], decided)
    tokens = tokens.masked_fill(~sound, NO_TOKEN)
    chosen = [Chosen(token=token) for token in tokens.tolist()]
    told = [
        row
        for row, each in enumerate(candidates)
        if each.parameters.logprobs is not None and chosen[row].token != NO_TOKEN
    ]
    for row, with_logprobs in zip(told, _told(logits, tokens, candidates, told), strict=True):
        chosen[row] = with_logprobs
    return chosen


def _told(
    logits: Tensor, tokens: Tensor, candidates: Sequence[Candidate], rows: Sequence[int]
) -> list[Chosen]:
    """What those are told that asked for logprobs."""
    if not rows:
        return []
    index = torch.tensor(rows, device=logits.device)
    logprobs, of = logits[index].log_softmax(dim=-1), tokens[index]
    counts = [candidates[row].parameters.logprobs or 0 for row in rows]
    best, places = logprobs.topk(min(max(counts), logprobs.shape[-1]), dim=-1)
    own = logprobs.gather(-1, of[:, None])[:, 0]
    return [
        Chosen(token=token, logprob=logprob, likeliest=tuple(zip(some, by, strict=True))[:count])
        for token, logprob, some, by, count in zip(
            of.tolist(), own.tolist(), places.tolist(), best.tolist(), counts, strict=True
        )
    ]
