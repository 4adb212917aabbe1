"""How a request's next token is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

GREEDY_BELOW = 1e-5  # dividing by less would only overflow


class SamplingParameters(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True
):
    """In the order in which they act.

    Attributes:
        logit_bias: added to the scores of some tokens.
        repetition_penalty: scores of tokens that the text has, prompt included, are divided by it
            where positive and multiplied where negative (CTRL, arXiv 1909.05858); 1 changes none.
        frequency_penalty: times how often the output has a token, subtracted from its score.
        presence_penalty: subtracted from the scores of tokens that the output has.
        temperature: 0 takes the most likely token.
        min_p: tokens less likely than so many times the most likely one are left out
            (arXiv 2407.01082); 0 keeps all.
        top_k: number of most likely tokens kept; 0 keeps all.
        top_p: smallest set of most likely of these with this much of their probability; 1 keeps
            all.
        seed: equal seeds give equal draws, whatever else is in the batch.
        logprobs: how many most likely tokens are told with the chosen one; None: nothing is told.
    """

    logit_bias: dict[int, float] = {}
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    temperature: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature < GREEDY_BELOW

    @property
    def penalizes(self) -> bool:
        """Whether scores depend on the text so far."""
        penalties = (self.repetition_penalty, self.frequency_penalty, self.presence_penalty)
        return penalties != (1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A sequence whose next token is to be chosen.

    Attributes:
        prompt, output: its tokens so far.
    """

    parameters: SamplingParameters
    prompt: Sequence[int]
    output: Sequence[int]
