"""What one choice of a response was given: by one token, or by all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from engine.serving.api.error import ApiError
from engine.serving.request import FinishReason

if TYPE_CHECKING:
    from engine.serving.api.delta import Delta, Likelihood


@dataclass(slots=True, kw_only=True)
class Part:
    """Grows by deltas.

    Attributes:
        index: of the choice.
        tokens: generated since the request began.
        likelihoods: of these tokens, where they were asked for.
        finish: None while it goes on.
    """

    index: int
    text: str = ""
    tokens: int = 0
    likelihoods: list[Likelihood] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None

    def add(self, delta: Delta) -> None:
        """One more.

        Raises:
            ApiError: the request was given up.
        """
        self.finish = None if delta.finish is None else _public(delta.finish)
        self.text += delta.text
        self.tokens = delta.tokens
        if delta.likelihood:
            self.likelihoods.append(delta.likelihood)


def _public(reason: FinishReason) -> Literal["stop", "length"]:
    if reason is FinishReason.CANCELLED:
        raise ApiError(503, "the server is stopping", code="stopping")
    if reason is FinishReason.ERROR:
        raise ApiError(500, "the completion could not be computed", code="generation_failed")
    return "stop" if reason is FinishReason.STOP else "length"
