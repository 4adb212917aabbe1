"""A server that speaks OpenAI's API, asked for one answer at a time. Standard library only: the
base install talks to anybody's server."""

from __future__ import annotations

import json
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any

from collectors.errors import DataError, OpsuiteError, TimedOut, Unreachable, UsageError
from collectors.samplers.scrape import parse_address
from tui.table import visible

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from http.client import HTTPResponse

_ANSWER_S = 600.0  # answers may queue for long; Ctrl-C is there for who will not wait
_LONGEST_LINE = 1 << 20
_LONGEST_BODY = 1 << 20
_LONGEST_REASON = 500  # characters of what a server says of an error
NO_TEMPLATE = "no_chat_template"


class NoChatTemplate(UsageError):  # noqa: N818 - named for what the model lacks
    """The server's model can only continue texts."""


class Server:
    """At one address.

    Args:
        url: its root or its ``/v1``.
        api_key: sent as a bearer token, where the URL has no user of its own.

    Raises:
        UsageError: ``url`` is no address that can be asked.
    """

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        self._address = parse_address(url, api_key=api_key)
        self._base = self._address.target.partition("?")[0].removesuffix("/metrics")

    @property
    def shown(self) -> str:
        """Its address, without any secret."""
        return self._address.shown.removesuffix("/metrics")

    def models(self) -> list[str]:
        """Names of what it serves.

        Raises:
            UsageError: it wants another key.
            Unreachable, TimedOut: it does not answer.
            DataError: it answers something else.
        """
        with self._response("GET", "/v1/models", None) as response:
            body = response.read(_LONGEST_BODY)
        try:
            return [str(card["id"]) for card in json.loads(body)["data"]]
        except (ValueError, KeyError, TypeError):
            raise self._no_such_answer() from None

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """The events of one streamed answer, each when it comes. To be closed where it is left.

        Raises:
            NoChatTemplate: the model has none.
            UsageError: the server refuses the request.
            Unreachable: it does not answer, or breaks off.
            TimedOut: it says nothing for long.
            DataError: it answers something else.
        """
        with self._response("POST", path, {**body, "stream": True}) as response:
            while line := response.readline(_LONGEST_LINE):
                field, _, data = line.partition(b":")
                if field != b"data":
                    continue
                if data.strip() == b"[DONE]":
                    return
                yield self._event(data)
        raise Unreachable("the server broke off", where=self.shown)

    def _event(self, data: bytes) -> dict[str, Any]:
        try:
            event = json.loads(data)
        except ValueError:
            raise self._no_such_answer() from None
        if not isinstance(event, dict):
            raise self._no_such_answer()
        if error := event.get("error"):
            raise Unreachable(f"the server gave up: {_message(error)[0]}", where=self.shown)
        return event

    @contextmanager
    def _response(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> Iterator[HTTPResponse]:
        headers = {"Content-Type": "application/json", "Accept": "*/*"}
        if self._address.authorization:
            headers["Authorization"] = self._address.authorization
        content = None if body is None else json.dumps(body).encode()
        with closing(self._connection()) as connection:
            try:
                connection.request(method, self._base + path, content, headers)
                response = connection.getresponse()
                if response.status != 200:
                    raise self._refused(response.status, response.read(_LONGEST_BODY))
                yield response
            except TimeoutError as error:
                raise TimedOut("the server says nothing", where=self.shown) from error
            except (OSError, HTTPException) as error:
                raise Unreachable(
                    f"the server does not answer: {visible(str(error)) or type(error).__name__}",
                    where=self.shown,
                    remedy="start one, such as opsuite serve MODEL, and give the URL it prints",
                ) from error

    def _connection(self) -> HTTPConnection:
        kind = HTTPSConnection if self._address.scheme == "https" else HTTPConnection
        return kind(self._address.host, self._address.port, timeout=_ANSWER_S)

    def _refused(self, status: int, body: bytes) -> OpsuiteError:
        try:
            told = json.loads(body)
        except ValueError:
            told = body.decode(errors="replace")
        message, code = _message(told.get("error", told) if isinstance(told, dict) else told)
        what = f"the server answered {status}: {message}"
        if code == NO_TEMPLATE or (status == 400 and "chat template" in message.lower()):
            return NoChatTemplate(
                what, where=self.shown, remedy="let it continue texts as they are: --raw"
            )
        if status in (401, 403):
            remedy = "give the server's key: --api-key-file, or OPSUITE_API_KEY"
            return UsageError(what, where=self.shown, remedy=remedy)
        if status == 429 or status >= 500:
            return Unreachable(what, where=self.shown, remedy="try again later")
        return UsageError(what, where=self.shown)

    def _no_such_answer(self) -> DataError:
        return DataError(
            "what answers there does not speak OpenAI's API",
            where=self.shown,
            remedy="check the URL",
        )


def _message(error: object) -> tuple[str, str]:
    """What a server says of an error, without power over a terminal; and its code."""
    code = ""
    if isinstance(error, dict):
        code = str(error.get("code") or "")
        error = error.get("message") or error.get("detail") or error
    text = visible(" ".join(str(error).split()))
    return text[:_LONGEST_REASON], code
