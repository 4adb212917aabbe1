"""What a response's client sees of one more token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.serving.request import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """Of a token that was given, by the model's own scores.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability.
        likeliest: the most likely tokens at its place, and their logprobs, in falling order.
    """

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What was added to one request.

    Attributes:
        text: new text, whole characters; empty while characters or stop strings are undecided.
        tokens: tokens generated since the request began.
        likelihood: of the token; None where it was not asked for, or there is none.
        finish: None while the request goes on.
    """

    number: int
    text: str
    tokens: int
    likelihood: Likelihood | None = None
    finish: FinishReason | None = None
