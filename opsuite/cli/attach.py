"""``opsuite attach``: a look at a job that runs already and knows nothing of opsuite."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from collectors.errors import UsageError
from opsuite.output import narrate, print_data, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator


def attach(
    pids: Annotated[
        list[int],
        typer.Argument(metavar="PID...", help="The ranks, or the torchrun or shell above them."),
    ],
    *,
    duration: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long to look.")
    ] = "10s",
    name: Annotated[
        str | None, typer.Option(help="Of the run. [default: attached, and the script]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Say what the ranks of a running job do, and of one that hangs, who never came.

    The processes are not touched: nothing is sent to them, and they do not stop. Exits with 0
    where the job moves and with 1 where something was found.
    """
    from opsuite.attaching.command import attach_to
    from opsuite.attaching.report import render

    seconds = _seconds(duration)
    with _ended_like_an_interrupt():
        answer = attach_to(pids, for_s=seconds, name=name, command=sys.argv, narrate=narrate)
    if json:
        print_json(answer.to_json())
    else:
        print_data(render(answer))
    if answer.exit_code:
        raise typer.Exit(answer.exit_code)


def _seconds(text: str) -> float:
    from collectors.duration import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(str(error), where="--for", remedy="give a time") from None


@contextmanager
def _ended_like_an_interrupt() -> Iterator[None]:
    """SIGTERM ends the look as Ctrl-C does: what was gathered is kept."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
