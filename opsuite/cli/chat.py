"""``opsuite chat``: talk to a model that is served."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collectors.errors import DataError, UsageError
from opsuite.output import narrate

if TYPE_CHECKING:
    from opsuite.chatting.server import Server

_URL = "http://127.0.0.1:8000"


def chat(
    url: Annotated[
        str, typer.Argument(metavar="[URL]", help="The server, ours or any of OpenAI's API.")
    ] = _URL,
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="Answer this, and no more.")
    ] = None,
    *,
    system: Annotated[str, typer.Option(help="What the model is told before all else.")] = "",
    model: Annotated[
        str | None, typer.Option(help="Which of the server's models. [default: its first]")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer. [default: the server's; --raw: 256]")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 takes the likeliest tokens.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue texts as they are: no turns, no history.")
    ] = False,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the key that the server asks for.")
    ] = None,
) -> None:
    """Talk to a served model; answers stream. /help says what else can be typed.

    A PROMPT, or one through a pipe, is answered once, on stdout. With no --api-key-file,
    OPSUITE_API_KEY is the key. Control characters in answers are shown, not obeyed.
    """
    from collectors.api_key import read_key
    from collectors.settings import Settings
    from opsuite.chatting.conversation import Conversation
    from opsuite.chatting.server import Server
    from opsuite.chatting.session import Session, answer

    if " " in url:
        raise UsageError(f"{url!r} is no address", where="URL", remedy="opsuite chat URL PROMPT")
    if raw and system:
        raise UsageError("--raw has no turns, so no --system", remedy="leave one of them out")
    key = read_key(api_key_file) if api_key_file else Settings.from_environment().api_key
    server = Server(url, api_key=key)
    once = prompt if prompt is not None or sys.stdin.isatty() else _piped()
    if once is not None and not once.strip():
        raise UsageError("the prompt is empty", remedy="give one, or leave it out to talk")
    conversation = Conversation(
        server=server,
        model=model or _first(server),
        system=system,
        raw=raw,
        max_tokens=max_tokens,
        temperature=temperature,
    )
    if once is not None:
        answer(conversation, once)
        return
    _greet(conversation.model, server)
    Session(conversation).run()


def _piped() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise DataError("the prompt is no text", where="stdin") from None


def _first(server: Server) -> str:
    models = server.models()
    if not models:
        raise DataError("the server has no model", where=server.shown, remedy="give --model")
    return models[0]


def _greet(model: str, server: Server) -> None:
    from tui.table import visible

    narrate(f"{visible(model)} at {server.shown}; /help helps, /quit or Ctrl-D leaves")
