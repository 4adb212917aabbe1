"""What is asked of a server, and how its answer came."""

from __future__ import annotations

import msgspec


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One completion to ask for.

    Attributes:
        at_s: when, since the beginning.
        prompt: a text, or token ids.
    """

    at_s: float
    prompt: str | tuple[int, ...]
    max_tokens: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One streamed completion, as its client saw it. Times are seconds of the client's clock, since
    its beginning.

    Attributes:
        id: the server's name for it; "" where it gave none.
        sent_s: when the request was begun.
        token_s: when each part of the text came: with a server that sends every token for itself,
            each token.
        prompt_tokens, tokens: by the server's count; 0 where it said nothing.
        status: of HTTP; None where there was no response.
        problem: why it is not whole: refused, broken off, late; "" where it is.
    """

    id: str = ""
    text: str = ""
    sent_s: float
    token_s: tuple[float, ...] = ()
    prompt_tokens: int = 0
    tokens: int = 0
    status: int | None = None
    problem: str = ""

    @property
    def ttft_s(self) -> float | None:
        """Time to first token; None where none came."""
        return self.token_s[0] - self.sent_s if self.token_s else None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None of less than two."""
        if self.tokens < 2 or not self.token_s:
            return None
        return (self.token_s[-1] - self.token_s[0]) / (self.tokens - 1)
