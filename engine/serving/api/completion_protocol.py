"""Bodies of ``POST /v1/completions``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from engine.serving.api.protocol import (
    MAX_CHOICES,
    MAX_LOGPROBS,
    NOT_SUPPORTED,
    GenerationBody,
    Token,
    Usage,
)

MAX_PROMPTS = 64

TokenList = Annotated[list[Token], Field(fail_fast=True, min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Prompt = (
    Text
    | TokenList
    | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
    | Annotated[list[TokenList], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
)


class CompletionRequest(GenerationBody):
    """What is asked for."""

    prompt: Prompt = Field(
        description=f"a text, up to {MAX_PROMPTS} texts, a list of token ids, or {MAX_PROMPTS} such"
    )
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = False
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    suffix: Literal[""] | None = Field(default=None, description=NOT_SUPPORTED)

    @field_validator("echo")
    @classmethod
    def _of_text_alone(cls, given: bool | None, info: ValidationInfo) -> bool | None:
        if given and info.data.get("logprobs") is not None:
            raise ValueError("is not supported together with logprobs")
        return given

    @field_validator("best_of")
    @classmethod
    def _all_of_them(cls, given: int | None, info: ValidationInfo) -> int | None:
        if given is not None and given != (info.data.get("n") or 1):
            raise ValueError("must be n: no choice is left out")
        return given

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of each choice; None: not said."""
        return self.max_tokens

    @property
    def logprobs_asked(self) -> int | None:
        """How many most likely tokens are told with each; None: nothing is told."""
        return self.logprobs


class Logprobs(BaseModel):
    """Of each token of a choice.

    Attributes:
        tokens: their texts.
        token_logprobs: natural logarithms of their probabilities.
        top_logprobs: of the most likely tokens at each place, and of the one that was chosen.
        text_offset: where each begins, in characters of the choice's text.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Choice(BaseModel):
    """One completion, or the new part of it."""

    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class Completion(BaseModel):
    """A response, or one chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None
