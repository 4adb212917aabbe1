"""One request on its way through the engine: its tokens, its randomness and its text."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from engine.serving.detokenizer import Detokenizer
from engine.serving.request import Delta, FinishReason
from engine.serving.stop_strings import StopStrings

if TYPE_CHECKING:
    from engine.serving.detokenizer import Vocabulary
    from engine.serving.request import GenerationRequest


class Generation:
    """Grows by one token at a time until a token, a stop string or the length ends it.

    Args:
        end_tokens: ids that end a sequence.
    """

    def __init__(
        self, request: GenerationRequest, vocabulary: Vocabulary, end_tokens: frozenset[int]
    ) -> None:
        self.request = request
        self.latest = request.prompt[-1]
        self.tokens = 0
        self._end_tokens = frozenset() if request.ignore_eos else end_tokens
        self._detokenizer = Detokenizer(vocabulary)
        self._stops = StopStrings(request.stop)
        self._random = random.Random(request.sampling.seed)  # noqa: S311 - sampling, no secret

    def draw(self) -> float:
        """The uniform number that decides the next token."""
        return self._random.random()

    def append(self, token: int) -> Delta:
        """Take the next token in.

        Raises:
            ArithmeticError: the model's scores were not finite, so there is no next token.
        """
        if token < 0:
            raise ArithmeticError("the model's scores are not finite")
        self.latest = token
        self.tokens += 1
        text = self._stops.push(self._detokenizer.push(token))
        finish = self._finish(token)
        if finish and not self._stops.found:
            text += self._stops.push(self._detokenizer.finish()) + self._stops.finish()
        return Delta(number=self.request.number, text=text, tokens=self.tokens, finish=finish)

    def _finish(self, token: int) -> FinishReason | None:
        if self._stops.found or token in self._end_tokens:
            return FinishReason.STOP
        if self.tokens == self.request.max_tokens:
            return FinishReason.LENGTH
        return None
