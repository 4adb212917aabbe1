"""A client of OpenAI-compatible completions: streams one answer and times it. Standard library."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from collectors.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer, as its client saw it.

    Attributes:
        id: the server's name for it.
        text: the completion without its prompt.
        tokens: output tokens, by the server's count.
        ttft_s: time to first token.
        tpot_s: time per output token after the first; None for a single one.
    """

    id: str
    text: str
    tokens: int
    ttft_s: float
    tpot_s: float | None


def complete(url: str, model: str, prompt: str, *, max_tokens: int, seed: int) -> Completion:
    """Ask for one streamed completion.

    Raises:
        Unreachable: no server answers there, or it refuses.
    """
    parts = urlsplit(url)
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0.8,
        "top_p": 0.95,
        "seed": seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    start = perf_counter()
    try:
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        if response.status != 200:
            reason = response.read(500).decode(errors="replace")
            raise Unreachable(f"the server answered {response.status}: {reason}", where=url)
        return _collect(response, start)
    except (OSError, HTTPException) as error:
        raise Unreachable(f"the server does not answer: {error}", where=url) from error
    finally:
        connection.close()


def _collect(response: HTTPResponse, start: float) -> Completion:
    pieces: list[str] = []
    name, tokens, first, last = "", 0, 0.0, 0.0
    for chunk in _chunks(response):
        name = chunk.get("id", name)
        for choice in chunk.get("choices", ()):
            last = perf_counter()
            first = first or last
            pieces.append(choice["text"])
        if usage := chunk.get("usage"):
            tokens = usage["completion_tokens"]
    return Completion(
        id=name,
        text="".join(pieces),
        tokens=tokens,
        ttft_s=first - start,
        tpot_s=(last - first) / (tokens - 1) if tokens > 1 else None,
    )


def _chunks(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON documents of a server-sent event stream, up to ``[DONE]``."""
    for line in response:
        text = line.decode().strip()
        if text == "data: [DONE]":
            return
        if text.startswith("data: "):
            yield json.loads(text.removeprefix("data: "))
