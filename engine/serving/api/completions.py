"""From the body of a completion request to its response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.serving.api.completion_protocol import Choice, Completion
from engine.serving.api.logprobs import TextOffsets, completion_logprobs
from engine.serving.api.plan import Plan, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from engine.serving.api.completion_protocol import CompletionRequest, Logprobs
    from engine.serving.api.part import Part
    from engine.serving.api.protocol import Usage
    from engine.serving.api.served_model import ServedModel

_DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionPlan(Plan):
    """One completion or several.

    Raises:
        ApiError: the model cannot do what the body asks for.
    """

    id_prefix = "cmpl"

    def __init__(
        self, body: CompletionRequest, model: ServedModel, next_number: Callable[[], int]
    ) -> None:
        prompts = _prompts(body, model)
        super().__init__(body, prompts, model, next_number, default_tokens=_DEFAULT_MAX_TOKENS)
        self._echoes = bool(body.echo)
        self._offsets = [TextOffsets(model.vocabulary) for _ in self.requests]

    def opening(self) -> Iterable[Completion]:
        """The prompts, under ``echo``."""
        for index in range(len(self.requests)):
            if text := self._echo(index):
                yield self._completion([Choice(index=index, text=text)])

    def chunk(self, part: Part) -> Completion:
        """What was just added; each token once, in order."""
        return self._completion([self._choice(part, part.text)])

    def closing(self, usage: Usage) -> Completion:
        """The chunk after the last token's."""
        return self._completion([], usage)

    def whole(self, parts: Sequence[Part], usage: Usage) -> Completion:
        """The response, if it is not streamed."""
        choices = [self._choice(part, self._echo(part.index) + part.text) for part in parts]
        return self._completion(choices, usage)

    def _echo(self, index: int) -> str:
        if not self._echoes:
            return ""
        return self.model.vocabulary.text_of(self.requests[index].prompt)

    def _choice(self, part: Part, text: str) -> Choice:
        return Choice(
            index=part.index, text=text, logprobs=self._logprobs(part), finish_reason=part.finish
        )

    def _logprobs(self, part: Part) -> Logprobs | None:
        if self.body.logprobs_asked is None:
            return None
        return completion_logprobs(part.likelihoods, self.model, self._offsets[part.index])

    def _completion(self, choices: list[Choice], usage: Usage | None = None) -> Completion:
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model.name,
            choices=choices,
            usage=usage,
        )


def _prompts(body: CompletionRequest, model: ServedModel) -> list[Sequence[int]]:
    given = body.prompt
    if isinstance(given, str):
        return [encode(given, model)]
    return [
        encode(each, model) if isinstance(each, str) else each
        for each in ([given] if isinstance(given[0], int) else given)
    ]
