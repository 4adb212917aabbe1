"""Bodies of OpenAI's completions API, and the bounds of what a request may ask for."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_BODY_BYTES = 1 << 20
MAX_PROMPTS = 64
MAX_CHOICES = 128  # prompts x n

# fail_fast: one error is enough, of a list with a hundred thousand wrong items too.
Token = Annotated[int, Field(ge=0, lt=2**31)]
TokenList = Annotated[list[Token], Field(fail_fast=True, min_length=1)]
Prompt = (
    str
    | TokenList
    | Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
    | Annotated[list[TokenList], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
)
StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]

# Parameters of OpenAI's that would change the output and are not there yet, with the values at
# which they change nothing. Refused otherwise: a parameter is never ignored silently.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None,),
    "presence_penalty": (None, 0),
    "suffix": (None, ""),
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(_Body):
    """Options of a streamed response."""

    include_usage: bool = False
    include_obfuscation: bool = False  # padding against traffic analysis; none is sent

    @model_validator(mode="after")
    def _supported(self) -> Self:
        if self.include_obfuscation:
            raise ValueError("include_obfuscation is not supported")
        return self


class CompletionRequest(_Body):
    """``POST /v1/completions``. ``top_k`` and ``ignore_eos`` are extensions, as in vLLM."""

    model: Annotated[str, Field(max_length=512)]
    prompt: Prompt = Field(
        description=f"a text, up to {MAX_PROMPTS} texts, a list of token ids, or {MAX_PROMPTS} such"
    )
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = 16
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] | None = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = 0
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = 1
    stop: StopText | Annotated[list[StopText], Field(fail_fast=True, max_length=4)] | None = Field(
        default=None, description="a text of 1 to 256 characters, or up to 4 of them"
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    echo: bool | None = False
    ignore_eos: bool | None = False
    user: Annotated[str, Field(max_length=512)] | None = None  # for OpenAI's own records
    best_of: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    presence_penalty: Any = None
    suffix: Any = None

    @model_validator(mode="after")
    def _supported(self) -> Self:
        for name, neutral in _NEUTRAL.items():
            if getattr(self, name) not in neutral:
                raise ValueError(f"{name} is not supported")
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is only for streamed responses")
        return self


class Choice(BaseModel):
    """One completion, or the new part of it."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """A response, or one chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """One entry of ``GET /v1/models``."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["opsuite"] = "opsuite"


class ModelList(BaseModel):
    """``GET /v1/models``."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
