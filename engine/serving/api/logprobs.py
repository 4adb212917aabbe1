"""Probabilities of tokens, in the shapes of OpenAI's two APIs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.serving.api.chat_protocol import ChatLogprobs, TokenLogprob, TopLogprob
from engine.serving.api.completion_protocol import Logprobs
from engine.serving.api.detokenizer import Detokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.serving.api.delta import Likelihood
    from engine.serving.api.detokenizer import Vocabulary
    from engine.serving.api.served_model import ServedModel

_LEAST = -9999.0  # JSON has no infinity; OpenAI's


class TextOffsets:
    """Where each token of a choice begins in its text, in characters.

    A token that begins in the middle of a character begins where that does.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._detokenizer = Detokenizer(vocabulary)
        self._characters = 0

    def push(self, token: int) -> int:
        """The place of the next token."""
        place = self._characters
        self._characters += len(self._detokenizer.push(token))
        return place


def completion_logprobs(
    likelihoods: Sequence[Likelihood], model: ServedModel, offsets: TextOffsets
) -> Logprobs:
    """Of the tokens that were just added to a choice."""
    return Logprobs(
        tokens=[_text(each.token, model) for each in likelihoods],
        token_logprobs=[_finite(each.logprob) for each in likelihoods],
        top_logprobs=[_likeliest(each, model) for each in likelihoods],
        text_offset=[offsets.push(each.token) for each in likelihoods],
    )


def chat_logprobs(likelihoods: Sequence[Likelihood], model: ServedModel) -> ChatLogprobs:
    """Of the tokens that were just added to an answer."""
    return ChatLogprobs(content=[_told(each, model) for each in likelihoods])


def _likeliest(each: Likelihood, model: ServedModel) -> dict[str, float]:
    told = (*each.likeliest, (each.token, each.logprob))
    return {_text(token, model): _finite(logprob) for token, logprob in told}


def _told(each: Likelihood, model: ServedModel) -> TokenLogprob:
    return TokenLogprob(
        token=_text(each.token, model),
        logprob=_finite(each.logprob),
        bytes=_bytes(each.token, model),
        top_logprobs=[
            TopLogprob(
                token=_text(token, model), logprob=_finite(logprob), bytes=_bytes(token, model)
            )
            for token, logprob in each.likeliest
        ],
    )


def _text(token: int, model: ServedModel) -> str:
    r"""A token's text; bytes that are no characters by themselves as ``\xe4``."""
    if stands_for := model.vocabulary.bytes_of(token):
        return stands_for.decode(errors="backslashreplace")
    return model.tokenizer.id_to_token(token) or f"token_id:{token}"


def _bytes(token: int, model: ServedModel) -> list[int] | None:
    return list(model.vocabulary.bytes_of(token)) or None


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
