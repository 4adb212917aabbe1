"""Bodies of ``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from engine.serving.api.protocol import MAX_LOGPROBS, NOT_SUPPORTED, Body, GenerationBody, Usage

MAX_MESSAGES = 1024
MAX_PARTS = 256


class TextPart(Body):
    """A part of a message; images and sounds are not supported."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Field(fail_fast=True, min_length=1, max_length=MAX_PARTS)]
_Nothing = Annotated[list[Any], Field(max_length=0)] | None


class Message(Body):
    """One turn. Those of tools are not supported; fields of a response's message are, where they
    say nothing: clients send back what they were given."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Annotated[str, Field(max_length=256)] | None = None
    refusal: None = Field(default=None, description=NOT_SUPPORTED)
    audio: None = Field(default=None, description=NOT_SUPPORTED)
    annotations: _Nothing = Field(default=None, description=NOT_SUPPORTED)
    tool_calls: _Nothing = Field(default=None, description=NOT_SUPPORTED)
    function_call: None = Field(default=None, description=NOT_SUPPORTED)

    @property
    def text(self) -> str:
        """Its content; parts are lines of it, as in vLLM."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class TextFormat(Body):
    """The one format of a response."""

    type: Literal["text"]


class ChatRequest(GenerationBody):
    """What is asked for."""

    messages: Annotated[
        list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)
    ] = Field(
        description=f"1 to {MAX_MESSAGES} messages with a role (system, developer, user, assistant)"
        " and a content (a text, or parts of type text)"
    )
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    response_format: TextFormat | None = Field(
        default=None, description='left out, or {"type": "text"}: no other is supported'
    )
    tools: _Nothing = Field(default=None, description=NOT_SUPPORTED)
    tool_choice: Literal["none"] | None = Field(default=None, description=NOT_SUPPORTED)
    parallel_tool_calls: None = Field(default=None, description=NOT_SUPPORTED)
    functions: _Nothing = Field(default=None, description=NOT_SUPPORTED)
    function_call: Literal["none"] | None = Field(default=None, description=NOT_SUPPORTED)

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_limit(cls, given: int | None, info: ValidationInfo) -> int | None:
        other = info.data.get("max_tokens")
        if given is not None and other is not None and given != other:
            raise ValueError("differs from max_tokens: give one of them")
        return given

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, given: int | None, info: ValidationInfo) -> int | None:
        if given is not None and not info.data.get("logprobs"):
            raise ValueError("needs logprobs to be true")
        return given

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of each choice; None: not said."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def logprobs_asked(self) -> int | None:
        """How many most likely tokens are told with each; None: nothing is told."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TopLogprob(BaseModel):
    """A token that was likely at its place.

    Attributes:
        bytes: of its text; None for special tokens.
    """

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token that was given."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Of each token of a choice, or of its new part."""

    content: list[TokenLogprob]
    refusal: None = None


class Answer(BaseModel):
    """The message that was generated."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: Answer
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatCompletion(BaseModel):
    """A whole response."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Opening(BaseModel):
    """Whose message begins."""

    role: Literal["assistant"] = "assistant"
    content: Literal[""] = ""


class Addition(BaseModel):
    """What is added to it."""

    content: str


class ChatChunkChoice(BaseModel):
    """The new part of one answer."""

    index: int
    delta: Opening | Addition
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(BaseModel):
    """One chunk of a streamed response."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
