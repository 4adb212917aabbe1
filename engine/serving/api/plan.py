"""From a body to generation requests, and from what these are given to a response."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from engine.serving.api.error import ApiError
from engine.serving.api.part import Part
from engine.serving.api.protocol import (
    MAX_CHOICES,
    MAX_PROMPT_TOKENS,
    MAX_TOLD_LOGPROBS,
    GenerationBody,
    Usage,
)
from engine.serving.request import GenerationRequest
from engine.serving.sampling.parameters import SamplingParameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pydantic import BaseModel

    from engine.serving.api.delta import Delta
    from engine.serving.api.served_model import ServedModel

_SEEDS = 2**64


class Plan(ABC):
    """One response: the requests that it takes, one for each choice, and how they are shown.

    Args:
        prompts: token ids; each gets as many choices as the body asks for.
        default_tokens: most tokens of a choice where the body does not say; None: what has room.

    Raises:
        ApiError: the model cannot do what the body asks for.
    """

    id_prefix: ClassVar[str]

    def __init__(
        self,
        body: GenerationBody,
        prompts: Sequence[Sequence[int]],
        model: ServedModel,
        next_number: Callable[[], int],
        *,
        default_tokens: int | None = None,
    ) -> None:
        self.body = body
        self.model = model
        self.id = f"{self.id_prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self._prompt_tokens = sum(len(prompt) for prompt in prompts)
        _require_known(body, model)
        checked = [_checked(prompt, model) for prompt in prompts]
        limits = [_limit(body, model, prompt, default_tokens) for prompt in checked]
        _require_bounded(body, checked, limits)
        self.requests = [
            GenerationRequest(
                number=next_number(),
                id=self.id,
                prompt=prompt,
                max_tokens=limit,
                parameters=_parameters(body, seed),
                ends=_ends(body, model),
                urgency=body.priority or 0,
                salt=body.cache_salt or "",
            )
            for prompt, limit in zip(checked, limits, strict=True)
            for seed in _seeds(body.seed, body.choices)
        ]
        self._index = {request.number: i for i, request in enumerate(self.requests)}

    def parts(self) -> list[Part]:
        """Of each choice, with nothing in it yet."""
        return [Part(index=i) for i in range(len(self.requests))]

    def index(self, delta: Delta) -> int:
        """Of the choice that a delta belongs to."""
        return self._index[delta.number]

    def part(self, delta: Delta) -> Part:
        """A delta by itself.

        Raises:
            ApiError: the request was given up.
        """
        part = Part(index=self.index(delta))
        part.add(delta)
        return part

    def usage(self, completion_tokens: int) -> Usage:
        """Tokens in total; a prompt counts once however many choices it gets."""
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=self._prompt_tokens + completion_tokens,
        )

    @abstractmethod
    def opening(self) -> Iterable[BaseModel]:
        """Chunks before the first token's."""

    @abstractmethod
    def chunk(self, part: Part) -> BaseModel:
        """What was just added, as a chunk; each token once, in order."""

    @abstractmethod
    def closing(self, usage: Usage) -> BaseModel:
        """The chunk after the last token's."""

    @abstractmethod
    def whole(self, parts: Sequence[Part], usage: Usage) -> BaseModel:
        """The response, if it is not streamed."""


def encode(text: str, model: ServedModel, *, special: bool = True) -> list[int]:
    """A prompt's tokens; with those that the tokenizer puts around a text, if ``special``.

    Raises:
        ApiError: it is far too long.
    """
    if not model.may_fit(text):
        raise _too_long(model, f"the prompt has {len(text)} characters", None)
    return model.encode(text, special=special)


def _checked(prompt: Sequence[int], model: ServedModel) -> tuple[int, ...]:
    if not prompt:
        raise ApiError(400, "prompt: must not be empty", param="prompt")
    if max(prompt) >= model.vocab_size:
        message = f"prompt: token ids must be below {model.vocab_size}"
        raise ApiError(400, message, param="prompt")
    if len(prompt) >= model.max_len:
        raise _too_long(model, f"the prompt has {len(prompt)}", None)
    return tuple(prompt)


def _limit(
    body: GenerationBody, model: ServedModel, prompt: Sequence[int], default: int | None
) -> int:
    room = model.max_len - len(prompt)
    asked = body.most_tokens
    if asked is None:
        return room if default is None else min(default, room)
    if asked > room:
        told = f"the prompt has {len(prompt)} and max_tokens is {asked}"
        raise _too_long(model, told, "max_tokens")
    return asked


def _too_long(model: ServedModel, asked: str, param: str | None) -> ApiError:
    message = f"the context holds {model.max_len} tokens; {asked}"
    return ApiError(400, message, param=param, code="context_length_exceeded")


def _require_known(body: GenerationBody, model: ServedModel) -> None:
    """What depends on the model, and on how it is served."""
    named = {"stop_token_ids": body.stop_token_ids or (), "logit_bias": body.logit_bias or ()}
    for param, tokens in named.items():
        if any(int(token) >= model.vocab_size for token in tokens):
            message = f"{param}: token ids must be below {model.vocab_size}"
            raise ApiError(400, message, param=param)
    if body.priority and not model.priorities:
        message = "priority: it does not count here; serve with --policy priority"
        raise ApiError(400, message, param="priority")


def _require_bounded(
    body: GenerationBody, prompts: Sequence[Sequence[int]], limits: Sequence[int]
) -> None:
    """What is small by itself may be much when it is multiplied."""
    if len(prompts) * body.choices > MAX_CHOICES:
        raise ApiError(400, f"n: prompts x n must be at most {MAX_CHOICES}", param="n")
    if sum(len(prompt) for prompt in prompts) * body.choices > MAX_PROMPT_TOKENS:
        message = f"n: prompt tokens x n must be at most {MAX_PROMPT_TOKENS}"
        raise ApiError(400, message, param="n")
    if body.logprobs_asked is None:
        return
    if sum(limits) * body.choices * (1 + body.logprobs_asked) > MAX_TOLD_LOGPROBS:
        message = f"logprobs: n x tokens x logprobs must be at most {MAX_TOLD_LOGPROBS}"
        raise ApiError(400, message, param="logprobs")


def _ends(body: GenerationBody, model: ServedModel) -> frozenset[int]:
    asked = frozenset(body.stop_token_ids or ())
    return asked if body.ignore_eos else asked | model.end_tokens


def _seeds(seed: int | None, copies: int) -> list[int]:
    first = secrets.randbits(64) if seed is None else seed
    return [(first + copy) % _SEEDS for copy in range(copies)]


def _parameters(body: GenerationBody, seed: int) -> SamplingParameters:
    return SamplingParameters(
        logit_bias={int(token): bias for token, bias in (body.logit_bias or {}).items()},
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        temperature=_or(body.temperature, 1.0),
        min_p=_or(body.min_p, 0.0),
        top_k=max(0, body.top_k or 0),
        top_p=_or(body.top_p, 1.0),
        seed=seed,
        logprobs=body.logprobs_asked,
    )


def _or(given: float | None, default: float) -> float:
    return default if given is None else float(given)
