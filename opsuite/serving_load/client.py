"""The one client of OpenAI-compatible completions: streams answers, and times each part."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

import httpx
import msgspec

from collectors.errors import Unreachable
from opsuite.serving_load.answer import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_CONNECT_S = 10.0
_OURS = "opsuite"
_IGNORE_EOS = frozenset({_OURS, "vllm"})  # by what owns their models; others refuse what is unknown
_LONGEST_REASON = 500  # characters


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    """What a stream's event has, of what is needed here."""

    id: str = ""
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Card(msgspec.Struct):
    id: str
    owned_by: str = ""
    max_model_len: int | None = None  # vLLM's


class _Models(msgspec.Struct):
    data: list[_Card]


_CHUNK = msgspec.json.Decoder(_Chunk)
_MODELS = msgspec.json.Decoder(_Models)


class ServedName(msgspec.Struct, frozen=True, kw_only=True):
    """Of a server's first model.

    Attributes:
        model: what clients call it.
        takes_tokens: whether prompts may be any token ids: our own server's.
        ignores_eos: whether it can be told to go on to ``max_tokens``.
        max_len: most tokens of a prompt and its completion; None where it does not say.
    """

    model: str
    takes_tokens: bool
    ignores_eos: bool
    max_len: int | None = None


@dataclass(slots=True)
class _Parts:
    """An answer while it comes."""

    sent_s: float
    id: str = ""
    texts: list[str] = field(default_factory=list)
    token_s: list[float] = field(default_factory=list)
    usage: _Usage = field(default_factory=_Usage)
    status: int | None = None
    whole: bool = False
    problem: str = ""

    def take(self, chunk: _Chunk, now_s: float) -> None:
        """One event more."""
        self.id = self.id or chunk.id
        for choice in chunk.choices:
            if choice.text or choice.finish_reason:
                self.texts.append(choice.text)
                self.token_s.append(now_s)
        self.usage = chunk.usage or self.usage
        if chunk.error:
            self.problem = f"the server gave up: {chunk.error}"

    def answer(self) -> Answer:
        problem = self.problem or ("" if self.whole else "the server broke off")
        return Answer(
            id=self.id,
            text="".join(self.texts),
            sent_s=self.sent_s,
            token_s=tuple(self.token_s),
            prompt_tokens=self.usage.prompt_tokens,
            tokens=self.usage.completion_tokens,
            status=self.status,
            problem=problem,
        )


def look(url: str, *, api_key: str | None = None) -> ServedName:
    """What a server serves; for callers without an event loop.

    Raises:
        Unreachable: no server answers there, or it serves nothing.
    """

    async def served() -> ServedName:
        async with CompletionClient(url, api_key=api_key) as client:
            return await client.served()

    return asyncio.run(served())


class CompletionClient:
    """Of one server; a context. Any number of answers may stream at once.

    Args:
        start: what ``perf_counter`` said at the beginning, from which all times count.
    """

    def __init__(self, url: str, *, api_key: str | None = None, start: float | None = None) -> None:
        self._url = url
        self._start = perf_counter() if start is None else start
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            timeout=httpx.Timeout(None, connect=_CONNECT_S),  # answers may queue for long
            trust_env=False,  # a proxy would be measured, too
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return perf_counter() - self._start

    async def served(self) -> ServedName:
        """Which model it serves, and what may be asked of it.

        Raises:
            Unreachable: no server answers there, or it serves nothing.
        """
        try:
            response = await self._http.get("/v1/models")
            response.raise_for_status()
            card = _MODELS.decode(response.content).data[0]
        except (httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError, IndexError) as error:
            raise Unreachable(
                f"no model is served there: {error or type(error).__name__}",
                where=self._url,
                remedy="start a server, such as opsuite serve MODEL, and give the URL it prints",
            ) from error
        return ServedName(
            model=card.id,
            takes_tokens=card.owned_by == _OURS,
            ignores_eos=card.owned_by in _IGNORE_EOS,
            max_len=card.max_model_len,
        )

    async def ask(self, options: Mapping[str, Any], *, give_up_s: float = float("inf")) -> Answer:
        """One streamed completion; what goes wrong is told in it.

        Args:
            options: of the body: ``model``, ``prompt``, ``max_tokens``, ...
            give_up_s: seconds since the beginning after which nobody waits for it any more.
        """
        body = {**options, "stream": True, "stream_options": {"include_usage": True}}
        parts = _Parts(self.now_s)
        left_s = None if give_up_s == float("inf") else max(0.0, give_up_s - parts.sent_s)
        try:
            async with asyncio.timeout(left_s):
                await self._stream(body, parts)
        except TimeoutError:
            parts.problem = "it did not end in time"
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            parts.problem = f"{type(error).__name__}: {error}"
        return parts.answer()

    async def _stream(self, body: Mapping[str, Any], parts: _Parts) -> None:
        async with self._http.stream("POST", "/v1/completions", json=body) as response:
            parts.status = response.status_code
            if response.status_code != 200:
                reason = (await response.aread()).decode(errors="replace")[:_LONGEST_REASON]
                parts.problem = f"the server answered {response.status_code}: {reason}"
                return
            async for event in _events(response):
                if event == b"[DONE]":
                    parts.whole = True
                    return
                parts.take(_CHUNK.decode(event), self.now_s)


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """The data of server-sent events, as soon as each is whole."""
    rest = b""
    async for received in response.aiter_bytes():
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
