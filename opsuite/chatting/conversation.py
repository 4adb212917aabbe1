"""What was said so far, and what is asked next."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

    from opsuite.chatting.server import Server

_RAW_TOKENS = 256  # of a text that is continued: it may have no end

Message = dict[str, str]


@dataclass(kw_only=True)
class Conversation:
    """With one model.

    Attributes:
        system: what it is told before all else; "" for nothing.
        raw: texts are continued as they are, each by itself: no turns, no history.
        max_tokens, temperature: of each answer; None: as the server has it.
        messages: the turns so far, whole ones only.
        cut_off: whether the last answer ended by its length.
    """

    server: Server
    model: str
    system: str = ""
    raw: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    messages: list[Message] = field(default_factory=list)
    cut_off: bool = False

    def say(self, text: str) -> Generator[str]:
        """The answer's pieces, as they come; it is kept when it is over, or when it is stopped
        after something came. What fails leaves no trace.

        Raises:
            OpsuiteError: as :meth:`opsuite.chatting.server.Server.stream`.
        """
        path, body = self._request(text)
        pieces: list[str] = []
        self.cut_off = False
        try:
            with closing(self.server.stream(path, body)) as events:
                for event in events:
                    piece = self._piece(event)
                    if piece:
                        pieces.append(piece)
                        yield piece
        except (GeneratorExit, KeyboardInterrupt):
            if pieces:
                self._keep(text, "".join(pieces))
            raise
        self._keep(text, "".join(pieces))

    def opening(self) -> list[Message]:
        """The messages that come first."""
        return [{"role": "system", "content": self.system}] if self.system else []

    def _request(self, text: str) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"model": self.model}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.raw:
            body |= {"prompt": text, "max_tokens": self.max_tokens or _RAW_TOKENS}
            return "/v1/completions", body
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        turn = {"role": "user", "content": text}
        body["messages"] = [*self.opening(), *self.messages, turn]
        return "/v1/chat/completions", body

    def _piece(self, event: dict[str, Any]) -> str:
        """New text; "" where an event has none."""
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return ""
        self.cut_off = self.cut_off or choice.get("finish_reason") == "length"
        delta = choice if self.raw else choice.get("delta")
        text = delta.get("text" if self.raw else "content") if isinstance(delta, dict) else None
        return text if isinstance(text, str) else ""

    def _keep(self, text: str, answer: str) -> None:
        if not self.raw:
            self.messages.append({"role": "user", "content": text})
            self.messages.append({"role": "assistant", "content": answer})
