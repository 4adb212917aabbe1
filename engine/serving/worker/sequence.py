"""A request on its way through the engine: its tokens, and its job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.scheduling.job import Job
from engine.serving.request import FinishReason, GenerationRequest, Token
from engine.serving.sampling.parameters import Candidate
from engine.serving.sampling.sampler import NO_TOKEN

if TYPE_CHECKING:
    from engine.serving.sampling.sampler import Chosen


@dataclass(slots=True, eq=False)
class Sequence:
    """Grows by one token at a time until a token, the length or an error ends it.

    What an earlier engine has given counts as prompt for the scheduler, which computes it anew.

    Attributes:
        text: all tokens so far, of prompt and output.
        output: those of the output.
        salt: bytes that only those have who share its computed prefixes.
    """

    request: GenerationRequest
    job: Job
    text: list[int]
    output: list[int] = field(default_factory=list)
    salt: bytes = b""

    @classmethod
    def of(cls, request: GenerationRequest, now: float) -> Sequence:
        """A request that has just come."""
        job = Job(
            number=request.number,
            arrived_s=now,
            prompt_tokens=len(request.prompt) + len(request.output),
            max_tokens=request.max_tokens - len(request.output),
            urgency=request.urgency,
        )
        text = [*request.prompt, *request.output]
        return cls(request, job, text, list(request.output), request.salt.encode())

    @property
    def candidate(self) -> Candidate:
        """For the choice of its next token."""
        return Candidate(
            parameters=self.request.parameters, prompt=self.request.prompt, output=self.output
        )

    def append(self, chosen: Chosen) -> Token:
        """Take the next token in."""
        request, place = self.request, len(self.output)
        if chosen.token == NO_TOKEN:
            return self.failed()
        self.output.append(chosen.token)
        self.text.append(chosen.token)
        finish = None
        if chosen.token in request.ends:
            finish = FinishReason.STOP
        elif place + 1 == request.max_tokens:
            finish = FinishReason.LENGTH
        return Token(
            number=request.number,
            place=place,
            token=chosen.token,
            logprob=chosen.logprob,
            likeliest=chosen.likeliest,
            finish=finish,
        )

    def failed(self) -> Token:
        """It has no next token."""
        return Token(
            number=self.request.number,
            place=len(self.output),
            token=NO_TOKEN,
            finish=FinishReason.ERROR,
        )
