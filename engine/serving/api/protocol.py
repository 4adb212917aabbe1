"""What every body of OpenAI's API has in common, and the bounds of what a request may ask for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

MAX_BODY_BYTES = 1 << 20
MAX_CHOICES = 128  # prompts x n
MAX_PROMPT_TOKENS = 1 << 22  # of all choices: each is told to the engine by itself
MAX_LOGPROBS = 20
MAX_TOLD_LOGPROBS = 1 << 22  # choices x tokens x logprobs: what a response may have to hold
MAX_BIASES = 1024
MAX_STOP_TOKENS = 64
MAX_PRIORITY = 1000
NOT_SUPPORTED = "left out: it is not supported"

# fail_fast: one error is enough, of a list with a hundred thousand wrong items too.
Token = Annotated[int, Field(ge=0, lt=2**31)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Name = Annotated[str, Field(max_length=512)]


class Body(BaseModel):
    """Nothing is converted, nothing unknown is passed over, and no number is infinite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(Body):
    """Options of a streamed response."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = Field(
        default=False,
        description=NOT_SUPPORTED,  # padding against traffic analysis
    )


class GenerationBody(Body, ABC):
    """How tokens are chosen, and what ends them.

    Beside OpenAI's parameters there are some of vLLM's: ``top_k``, ``min_p``,
    ``repetition_penalty``, ``ignore_eos``, ``stop_token_ids``, ``priority`` (less is sooner) and
    ``cache_salt`` (only requests with the same one share computed prefixes).
    """

    model: Name
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = 1
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] | None = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = 0
    min_p: Annotated[float, Field(ge=0, le=1)] | None = 0.0
    presence_penalty: Penalty | None = 0.0
    frequency_penalty: Penalty | None = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = 1.0
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,9})$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            Field(max_length=MAX_BIASES),
        ]
        | None
    ) = Field(
        default=None,
        description=f"up to {MAX_BIASES} token ids, as texts, with numbers from -100 to 100",
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopText | Annotated[list[StopText], Field(fail_fast=True, max_length=4)] | None = Field(
        default=None, description="a text of 1 to 256 characters, or up to 4 of them"
    )
    stop_token_ids: (
        Annotated[list[Token], Field(fail_fast=True, max_length=MAX_STOP_TOKENS)] | None
    ) = Field(default=None, description=f"up to {MAX_STOP_TOKENS} token ids")
    ignore_eos: bool | None = False
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = 0
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: Name | None = None  # for OpenAI's own records

    @field_validator("stream_options")
    @classmethod
    def _for_streams(
        cls, given: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if given and not info.data.get("stream"):
            raise ValueError("is only for streamed responses")
        return given

    @property
    def choices(self) -> int:
        """How many for each prompt."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end each choice."""
        given = self.stop or ()
        return (given,) if isinstance(given, str) else tuple(given)

    @property
    def usage_asked(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    @abstractmethod
    def most_tokens(self) -> int | None:
        """Most tokens of each choice; None: not said."""

    @property
    @abstractmethod
    def logprobs_asked(self) -> int | None:
        """How many most likely tokens are told with each; None: nothing is told."""


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ModelCard(BaseModel):
    """One entry of ``GET /v1/models``."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["opsuite"] = "opsuite"
    max_model_len: int  # vLLM's: most tokens of prompt and completion


class ModelList(BaseModel):
    """``GET /v1/models``."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """``GET /health``."""

    status: Literal["ok"] = "ok"


class ErrorText(BaseModel):
    """What an error says."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer that is an error."""

    error: ErrorText
