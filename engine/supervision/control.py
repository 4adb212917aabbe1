"""A running job's control socket: people ask what is going on, and for something to be done.

One line of JSON each way, over a Unix socket (0600) on the driver's host. A request is checked
against its schema; what is not understood is answered, and changes nothing.

    {"version": 1, "ask": "status"}
    {"version": 1, "ask": "news", "after": 3}
    {"version": 1, "ask": "evict", "host": "node7", "why": "flaky link"}
    {"version": 1, "ask": "slow", "rank": 12, "why": "1.40 times as long: cpu_throttling"}
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from collectors.daemon import endpoint
from collectors.errors import TimedOut, Unreachable, UsageError
from collectors.settings import Settings
from engine.resilience.messages import VERSION, Asked, Slow, Wish

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MOST_BYTES = 1 << 20
_ANSWER_S = 10.0


class Request(BaseModel):
    """What may be asked."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1]
    ask: Literal["status", "news", "evict", "pause", "resume", "stop", "restart", "slow"]
    after: int = Field(0, ge=0)
    host: str = Field("", max_length=253)
    rank: int | None = Field(None, ge=0)
    why: str = Field("", max_length=1000)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.ask == "evict" and not self.host:
            raise ValueError("evict needs a host")
        if self.ask == "slow" and self.rank is None:
            raise ValueError("slow needs a rank")
        return self

    @property
    def event(self) -> Asked | Slow | None:
        """For the driver; None: nothing is to be done."""
        if self.ask in ("status", "news"):
            return None
        if self.rank is not None and self.ask == "slow":
            return Slow(ranks=(self.rank,), detail=self.why, certain=True)
        return Asked(wish=Wish(self.ask), host=self.host, why=self.why)


def socket_path(run: Path) -> Path:
    """Of a run's control socket."""
    runtime = Settings.from_environment().runtime
    return endpoint.socket_path(run, runtime=runtime, group=None)


class ControlSocket:
    """The driver's end.

    Args:
        ask: does what is asked; what it raises as UsageError is told to who asked.
        describe: what is going on.
        news: what has happened lately, by number, after one.
    """

    def __init__(
        self,
        run: Path,
        ask: Callable[[Asked | Slow], None],
        describe: Callable[[], dict[str, Any]],
        news: Callable[[int], list[dict[str, Any]]] = lambda _: [],
    ) -> None:
        self._path = socket_path(run)
        self._ask = ask
        self._describe = describe
        self._news = news
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen; a socket that an earlier driver left is replaced.

        Raises:
            StorageError: its directory is somebody else's, or cannot be made.
        """
        listener = endpoint.listen(self._path, None)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, limit=_MOST_BYTES
        )

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), _ANSWER_S)
            writer.write(json.dumps(self._answer(line)).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError, TimeoutError):
            pass  # it went away, or sent no end of a line: nobody is there to be told
        finally:
            writer.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = Request.model_validate_json(line)
        except ValidationError as error:
            return {"version": VERSION, "error": str(error.errors(include_url=False)[0]["msg"])}
        if request.ask == "news":
            return {"version": VERSION, "news": self._news(request.after)}
        if (event := request.event) is not None:
            try:
                self._ask(event)
            except UsageError as error:
                return {"version": VERSION, "error": str(error)}
        return {"version": VERSION, "status": self._describe()}


def ask(
    run: Path, request: str, *, host: str = "", rank: int | None = None, why: str = ""
) -> dict[str, Any]:
    """Ask a run's driver something; gives its status after.

    Raises:
        Unreachable: no driver runs for it on this host.
        TimedOut: it does not answer.
        UsageError: it refuses.
    """
    content = {"version": VERSION, "ask": request, "host": host, "rank": rank, "why": why}
    return dict(_exchange(run, content).get("status", {}))


def read_news(run: Path, after: int) -> list[dict[str, Any]]:
    """What has happened to a job after the item of that number: ``number``, ``name``, ``facts``.

    Raises:
        Unreachable, TimedOut: as :func:`ask`.
    """
    return list(_exchange(run, {"version": VERSION, "ask": "news", "after": after}).get("news", []))


def _exchange(run: Path, content: dict[str, Any]) -> dict[str, Any]:
    path = socket_path(run)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_S)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(content).encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline(_MOST_BYTES) or b"{}")
        except TimeoutError:
            raise TimedOut("the run's driver does not answer", where=str(run)) from None
        except (OSError, ValueError):
            raise Unreachable(
                "no driver of this run is to be found on this host",
                where=str(run),
                remedy="only runs with resilience.recover = true have one, while they last",
            ) from None
    if "error" in answer:
        raise UsageError(f"the driver refuses: {answer['error']}", where=str(run))
    return dict(answer)
