"""From the body of a chat request to its response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.serving.api.chat_protocol import (
    Addition,
    Answer,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    Opening,
)
from engine.serving.api.chat_template import TemplateError
from engine.serving.api.error import ApiError
from engine.serving.api.logprobs import chat_logprobs
from engine.serving.api.plan import Plan, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from engine.serving.api.chat_protocol import ChatLogprobs, ChatRequest, Message
    from engine.serving.api.part import Part
    from engine.serving.api.protocol import Usage
    from engine.serving.api.served_model import ServedModel


class ChatPlan(Plan):
    """One answer or several to a conversation, as the model's own template writes it.

    Raises:
        ApiError: the model cannot do what the body asks for.
    """

    id_prefix = "chatcmpl"

    def __init__(
        self, body: ChatRequest, model: ServedModel, next_number: Callable[[], int]
    ) -> None:
        super().__init__(body, [_prompt(body.messages, model)], model, next_number)

    def opening(self) -> Iterable[ChatChunk]:
        """Whose messages begin."""
        for index in range(len(self.requests)):
            yield self._chunk([ChatChunkChoice(index=index, delta=Opening())])

    def chunk(self, part: Part) -> ChatChunk:
        """What was just added; each token once, in order."""
        choice = ChatChunkChoice(
            index=part.index,
            delta=Addition(content=part.text),
            logprobs=self._logprobs(part),
            finish_reason=part.finish,
        )
        return self._chunk([choice])

    def closing(self, usage: Usage) -> ChatChunk:
        """The chunk after the last token's."""
        return self._chunk([], usage)

    def whole(self, parts: Sequence[Part], usage: Usage) -> ChatCompletion:
        """The response, if it is not streamed."""
        choices = [
            ChatChoice(
                index=part.index,
                message=Answer(content=part.text),
                logprobs=self._logprobs(part),
                finish_reason=part.finish,
            )
            for part in parts
        ]
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model.name,
            choices=choices,
            usage=usage,
        )

    def _logprobs(self, part: Part) -> ChatLogprobs | None:
        if self.body.logprobs_asked is None:
            return None
        return chat_logprobs(part.likelihoods, self.model)

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | None = None) -> ChatChunk:
        return ChatChunk(
            id=self.id,
            created=self.created,
            model=self.model.name,
            choices=choices,
            usage=usage,
        )


def _prompt(messages: Sequence[Message], model: ServedModel) -> Sequence[int]:
    if model.chat_template is None:
        raise ApiError(
            400,
            "the model has no chat template: ask /v1/completions, or put the model's own"
            " chat_template.jinja beside its weights",
            code="no_chat_template",
        )
    try:
        text = model.chat_template.render([_turn(message) for message in messages])
    except TemplateError as error:
        raise ApiError(400, f"messages: {error}", param="messages") from None
    # Special tokens, also the one that begins a text, are the template's business.
    return encode(text, model, special=False)


def _turn(message: Message) -> dict[str, str]:
    """As templates know it; what OpenAI now calls a developer they call the system."""
    role = "system" if message.role == "developer" else message.role
    turn = {"role": role, "content": message.text}
    return turn if message.name is None else turn | {"name": message.name}
