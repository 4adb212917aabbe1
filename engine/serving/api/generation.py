"""The text of one request, a token at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.serving.api.delta import Delta, Likelihood
from engine.serving.api.detokenizer import Detokenizer
from engine.serving.api.stop_strings import StopStrings
from engine.serving.request import FinishReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.serving.api.detokenizer import Vocabulary
    from engine.serving.request import Token


class Generation:
    """Tokens in, text out, until the engine or a stop string ends it.

    Args:
        stop: texts that end it; they are not part of the output.
    """

    def __init__(self, number: int, vocabulary: Vocabulary, stop: Sequence[str]) -> None:
        self.number = number
        self._tokens = 0
        self._detokenizer = Detokenizer(vocabulary)
        self._stops = StopStrings(stop)

    def append(self, token: Token) -> Delta:
        """One more."""
        assert token.place == self._tokens, "no token is lost, none comes twice"
        if token.failed:
            return self.ended(FinishReason.ERROR)
        self._tokens += 1
        text = self._stops.push(self._detokenizer.push(token.token))
        finish = FinishReason.STOP if self._stops.found else token.finish
        if finish and not self._stops.found:
            text += self._stops.push(self._detokenizer.finish()) + self._stops.finish()
        return Delta(
            number=self.number,
            text=text,
            tokens=self._tokens,
            likelihood=_likelihood(token),
            finish=finish,
        )

    def ended(self, reason: FinishReason) -> Delta:
        """It is given up."""
        return Delta(number=self.number, text="", tokens=self._tokens, finish=reason)


def _likelihood(token: Token) -> Likelihood | None:
    if token.logprob is None:
        return None
    return Likelihood(token=token.token, logprob=token.logprob, likeliest=token.likeliest)
