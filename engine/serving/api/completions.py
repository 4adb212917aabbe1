"""From the body of a completion request to generation requests, and from deltas to its response."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Literal

from engine.serving.api.error import ApiError
from engine.serving.api.protocol import MAX_CHOICES, Choice, Completion, Usage
from engine.serving.request import FinishReason, GenerationRequest
from engine.serving.sampling.parameters import SamplingParameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.serving.api.delta import Delta
    from engine.serving.api.protocol import CompletionRequest
    from engine.serving.api.served_model import ServedModel

_DEFAULT_MAX_TOKENS = 16  # OpenAI's
_SEEDS = 2**64


class CompletionPlan:
    """One response: the requests that it takes, one for each choice, and how they are shown.

    Raises:
        ApiError: the model cannot do what the body asks for.
    """

    def __init__(
        self, body: CompletionRequest, model: ServedModel, next_number: Callable[[], int]
    ) -> None:
        self._body = body
        self._model = model
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        prompts = _prompts(body, model)
        copies = body.n or 1
        if len(prompts) * copies > MAX_CHOICES:
            raise ApiError(400, f"prompts x n must be at most {MAX_CHOICES}", param="n")
        self._prompt_tokens = sum(len(prompt) for prompt in prompts)
        sampling = [_sampling(body, copy) for copy in _seeds(body.seed, copies)]
        self.requests = [
            GenerationRequest(
                number=next_number(),
                id=self._id,
                prompt=prompt,
                max_tokens=_max_tokens(body, model, prompt),
                parameters=chosen,
                ends=frozenset() if body.ignore_eos else model.end_tokens,
            )
            for prompt in prompts
            for chosen in sampling
        ]
        self._index = {request.number: i for i, request in enumerate(self.requests)}

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end each choice."""
        given = self._body.stop or ()
        return (given,) if isinstance(given, str) else tuple(given)

    def opening(self) -> list[Choice]:
        """What each choice begins with: the prompt under ``echo``, else nothing."""
        echo = self._model.vocabulary.text_of
        return [
            Choice(index=i, text=echo(request.prompt) if self._body.echo else "")
            for i, request in enumerate(self.requests)
        ]

    def choice(self, delta: Delta) -> Choice:
        """A delta as a new part of its choice.

        Raises:
            ApiError: the request was given up.
        """
        reason = delta.finish
        return Choice(
            index=self._index[delta.number],
            text=delta.text,
            finish_reason=None if reason is None else _public(reason),
        )

    def usage(self, completion_tokens: int) -> Usage:
        """Tokens in total; a prompt counts once however many choices it gets."""
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=self._prompt_tokens + completion_tokens,
        )

    def completion(self, choices: list[Choice], usage: Usage | None = None) -> Completion:
        """A whole response, or a chunk."""
        return Completion(
            id=self._id,
            created=self._created,
            model=self._model.name,
            choices=choices,
            usage=usage,
        )


def _public(reason: FinishReason) -> Literal["stop", "length"]:
    if reason is FinishReason.CANCELLED:
        raise ApiError(503, "the server is stopping", code="stopping")
    if reason is FinishReason.ERROR:
        raise ApiError(500, "the completion could not be computed", code="generation_failed")
    return "stop" if reason is FinishReason.STOP else "length"


def _prompts(body: CompletionRequest, model: ServedModel) -> list[tuple[int, ...]]:
    given = body.prompt
    if isinstance(given, str):
        several: list[str] | list[list[int]] = [given]
    elif isinstance(given[0], int):
        several = [given]
    else:
        several = given
    return [_tokens(prompt, model) for prompt in several]


def _tokens(prompt: str | list[int], model: ServedModel) -> tuple[int, ...]:
    tokens = model.tokenizer.encode(prompt).ids if isinstance(prompt, str) else prompt
    if not tokens:
        raise ApiError(400, "prompt: must not be empty", param="prompt")
    if max(tokens) >= model.vocab_size:
        message = f"prompt: token ids must be below {model.vocab_size}"
        raise ApiError(400, message, param="prompt")
    if len(tokens) >= model.max_len:
        raise _too_long(model, f"the prompt has {len(tokens)}", "prompt")
    return tuple(tokens)


def _max_tokens(body: CompletionRequest, model: ServedModel, prompt: tuple[int, ...]) -> int:
    room = model.max_len - len(prompt)
    if body.max_tokens is None or "max_tokens" not in body.model_fields_set:
        return min(_DEFAULT_MAX_TOKENS, room)
    if body.max_tokens > room:
        asked = f"the prompt has {len(prompt)} and max_tokens is {body.max_tokens}"
        raise _too_long(model, asked, "max_tokens")
    return body.max_tokens


def _too_long(model: ServedModel, asked: str, param: str) -> ApiError:
    message = f"the context holds {model.max_len} tokens; {asked}"
    return ApiError(400, message, param=param, code="context_length_exceeded")


def _seeds(seed: int | None, copies: int) -> list[int]:
    first = secrets.randbits(64) if seed is None else seed
    return [(first + copy) % _SEEDS for copy in range(copies)]


def _sampling(body: CompletionRequest, seed: int) -> SamplingParameters:
    return SamplingParameters(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(0, body.top_k or 0),
        seed=seed,
    )
