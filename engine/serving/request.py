"""What is asked of the engine, and what it gives: token ids, no text."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from engine.serving.sampling.parameters import SamplingParameters


class FinishReason(StrEnum):
    """Why a request's generation ended."""

    STOP = "stop"  # one of the tokens that end it, or a stop string
    LENGTH = "length"  # max_tokens
    CANCELLED = "cancelled"  # its client went away, or the server is stopping
    ERROR = "error"  # it could not be computed


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One sequence to generate.

    Attributes:
        number: unique within the server's life; the subject of its recorded events.
        id: the API's name of the response it belongs to.
        prompt: token ids, at least one.
        max_tokens: most tokens to generate, at least one.
        ends: tokens that end it.
        urgency: less is sooner, where the policy heeds it.
        salt: only requests with the same one share computed prefixes.
        output: tokens that it has been given already, by an engine that is no more.
    """

    number: int
    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    parameters: SamplingParameters = SamplingParameters()
    ends: frozenset[int] = frozenset()
    urgency: int = 0
    salt: str = ""
    output: tuple[int, ...] = ()


class Token(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One more token of a request, or its end.

    Attributes:
        number: the request's.
        place: in the output, from 0.
        token: -1 where there is none: the scores were not finite.
        logprob: natural logarithm of its probability by the model; None if it was not asked for.
        likeliest: tokens and logprobs of the most likely ones, in falling order.
        finish: None while the request goes on.
    """

    number: int
    place: int
    token: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()
    finish: FinishReason | None = None

    @property
    def failed(self) -> bool:
        """Whether the request could not be computed."""
        return self.finish is FinishReason.ERROR
