"""What crosses the seam between the API and the engine: requests one way, deltas the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a request's generation ended."""

    STOP = "stop"  # the model's end-of-sequence token, or a stop string
    LENGTH = "length"  # max_tokens
    CANCELLED = "cancelled"  # its client went away, or the server is stopping
    ERROR = "error"  # it could not be computed


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p: smallest set of most likely tokens with this much probability; 1 keeps all.
        top_k: number of most likely tokens kept; 0 keeps all.
        seed: equal seeds give equal draws, whatever else is in the batch.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One sequence to generate.

    Attributes:
        number: unique within the server's life; the subject of its recorded events.
        id: the API's name of the response it belongs to.
        prompt: token ids, at least one.
        max_tokens: most tokens to generate, at least one.
        stop: texts that end the generation; they are not part of the output.
        ignore_eos: generate on past the end-of-sequence token (for measurements).
    """

    number: int
    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What one iteration added to one request.

    Attributes:
        text: new text, whole characters; empty while characters or stop strings are undecided.
        tokens: tokens generated since the request began.
        finish: None while the request goes on.
    """

    number: int
    text: str
    tokens: int
    finish: FinishReason | None = None
